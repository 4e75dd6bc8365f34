"""Install a Triton driver without a device: kernels compile for compute capability 9.0, launches are recorded."""

from itertools import count
from typing import Any, List, Tuple

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

launches: List[Tuple[int, int, int, int, Tuple[Any, ...]]] = []  # the compiled kernel's number, grid, all arguments
_numbers = count()


class _Utils:
    def load_binary(self, *arguments):
        return 0, next(_numbers), 64, 0, 1024  # module, function, registers, spills, threads

    def get_device_properties(self, device):
        return dict(max_shared_mem=232_448, multiprocessor_count=132, warpSize=32)


class _Launcher:
    launch_cooperative_grid = False

    def __init__(self, source, metadata):
        pass

    def __call__(self, x, y, z, stream, function, metadata, launch_metadata, enter_hook, exit_hook, *arguments):
        launches.append((function, x, y, z, arguments))


class _Driver:
    utils, launcher_cls = _Utils(), _Launcher

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


driver.set_active(_Driver())
