"""joblib, and with it scikit-learn, on the cluster: `register_ray()`, then `joblib.parallel_backend("ray")`."""


def register_ray() -> None:
    """Make "ray" a backend of joblib.

    Raises:
        ImportError: joblib is not installed.
    """
    from joblib.parallel import register_parallel_backend

    from sparkray.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)


__all__ = ["register_ray"]
