"""GPUs as STAND_IN_GPUS (how many) and STAND_IN_FREE_GIB (free memory of each) describe them."""

import os


def is_available() -> bool:
    return device_count() > 0


def device_count() -> int:
    return int(os.environ.get("STAND_IN_GPUS", "1"))


def mem_get_info(device: int) -> tuple[int, int]:
    assert device < device_count()
    free = int(float(os.environ.get("STAND_IN_FREE_GIB", "80")) * 2**30)
    return free, free
