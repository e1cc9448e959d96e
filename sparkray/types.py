"""`ray.types`: `ObjectRef`, for annotations."""

from sparkray_core.run.object_ref import ObjectRef

__all__ = ["ObjectRef"]
