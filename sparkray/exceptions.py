"""Everything that sparkray raises, under Ray's names. `sparkray_core.errors` has the tree.

The classes that are defined here are Ray's, for the `except` clauses of programs written for it. Nothing raises them:
either there is nothing here that fails in that way, or another class says so.
"""

from sparkray_core.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AuthenticationError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    OufOfBandObjectRefSerializationException,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    PendingCallsLimitExceeded,
    PlacementGroupExistsError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    UnknownOwnerError,
    UnserializableException,
    WorkerCrashedError,
)

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlacementGroupExistsError",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnknownOwnerError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


class AsyncioActorExit(RayError): ...


class CrossLanguageError(RayError): ...


class LocalRayletDiedError(RayError): ...


class ObjectRefStreamEndOfStreamError(RayError): ...


class PlasmaObjectNotAvailable(RayError): ...


class RpcError(RayError): ...


class UserCodeException(RayError): ...


class ObjectFetchTimedOutError(ObjectLostError): ...


class ObjectFreedError(ObjectLostError): ...


class ReferenceCountingAssertionError(ObjectLostError, AssertionError): ...


class RayCgraphCapacityExceeded(RaySystemError): ...


class RayChannelError(RaySystemError): ...


class RayChannelTimeoutError(RayChannelError, TimeoutError): ...


class RayDirectTransportError(RaySystemError): ...


class StreamingGeneratorReplayInconsistentError(RaySystemError): ...
