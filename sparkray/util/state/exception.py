"""What `sparkray.util.state` may raise, under Ray's names."""


class RayStateApiException(Exception):
    """The state could not be told. Nothing raises it so far: who does not answer is named in a warning."""


class DataSourceUnavailable(Exception):
    """Ray's. Nothing raises it: there is no process apart from those that are asked."""


class ServerUnavailable(RayStateApiException):
    """Ray's. Nothing raises it: the state API needs no dashboard."""
