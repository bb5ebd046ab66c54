"""Stand-ins: servers on real loopback sockets that answer the way the upstreams answer, and break on request.

`OllamaStandIn`, `DeepSeekStandIn` and `CompatStandIn` speak their dialects strictly, so that a request the real server would
refuse is refused here too. A queue of plans makes the next chat calls fail in a chosen way. `RawServer`
plays any list of bytes, waits and resets for the cases that no well-meant server shows.
"""

from .compat import CompatStandIn
from .deepseek import DeepSeekStandIn
from .framing import Seen
from .loop import until
from .ollama import ModelCard, OllamaStandIn
from .plans import (
    BadLine,
    Blank,
    CutAfter,
    EmptyDeltas,
    ErrorAfter,
    Finish,
    Garbage,
    GarbageBody,
    HalfLine,
    HoldAfter,
    KeepAliveOnly,
    Lines,
    Normal,
    Pace,
    Plan,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Say,
    Silence,
    SilenceAfterHeaders,
    Status,
)
from .raw import RawServer
from .server import StandIn
from .texts import Prefill

__all__ = [
    "BadLine",
    "Blank",
    "CompatStandIn",
    "CutAfter",
    "DeepSeekStandIn",
    "EmptyDeltas",
    "ErrorAfter",
    "Finish",
    "Garbage",
    "GarbageBody",
    "HalfLine",
    "HoldAfter",
    "KeepAliveOnly",
    "Lines",
    "ModelCard",
    "Normal",
    "OllamaStandIn",
    "Pace",
    "Plan",
    "Prefill",
    "RawServer",
    "ResetAfterHeaders",
    "ResetBeforeHeaders",
    "Say",
    "Seen",
    "Silence",
    "SilenceAfterHeaders",
    "StandIn",
    "Status",
    "until",
]
