"""Which Ray this is, and how it is guarded: asked by the doctor."""

import ray
from ray._private.authentication.authentication_utils import (  # no public form exists
    is_token_auth_enabled,
)


def cluster_version() -> str:
    """Version of Ray."""
    return ray.__version__


def is_token_auth_on() -> bool:
    """Whether Ray asks for a token before it runs anybody's code."""
    return is_token_auth_enabled()
