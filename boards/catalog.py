"""All boards, by name."""

from .arty import ARTY_A7_35T, ARTY_A7_100T
from .board import Board
from .icebreaker import ICEBREAKER
from .orangecrab import ORANGECRAB_25F, ORANGECRAB_85F
from .tang_nano import TANG_NANO_9K, TANG_NANO_20K
from .ulx3s import ULX3S_12F, ULX3S_85F

__all__ = ["BOARDS"]

BOARDS: dict[str, Board] = {board.name: board for board in (
    ULX3S_85F, ULX3S_12F, ORANGECRAB_25F, ORANGECRAB_85F, TANG_NANO_20K, TANG_NANO_9K, ICEBREAKER,
    ARTY_A7_35T, ARTY_A7_100T)}
