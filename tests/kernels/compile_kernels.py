"""Compile every shipped kernel, without a GPU, and print what the compiler made of it as CSV.

    python tests/kernels/compile_kernels.py > tests/kernels/compiled_kernels.csv
    python tests/kernels/compile_kernels.py 89 90       for these compute capabilities only

One row for each kernel and compute capability: registers of a thread, bytes it spills, shared memory of a program, SASS
instructions of a warp (in the attention kernels, which have no loop, that is what runs; ragged and sized ones hold the
code of whole windows and of others, and run one of them), whether dots became wgmma, how many tensors the first
loop carries from one turn to the next, and the shortest side of a tile that dots take or give.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import torch
import triton
from mmsema_kernels import depthwise_kernels, layer_norm_kernels, token_mean, window_attention
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CAPABILITIES = (80, 89, 90, 100)
SIZED_CAPABILITIES = (80, 90)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
HEADS = 4
# what the forward kernel reads and writes besides x and out
EPILOGUES = {
    "residual": (),
    "silu": (),
    "silu_grad": ("grad",),
    "gate": ("attention", "gate"),
    "gate_grad": ("attention", "gate", "grad", "grad_gate"),
}
# the kernels without the mean: name in the table, and the argument that is then None
WINDOWS_ONLY = {"forward_windows": "mean", "backward_windows": "grad_mean"}
FIELDS = ("kernel", "dtype", "precision", "head_dim", "window", "even", "rope", "sized", "capability")
MEASURES = ("registers", "spill_bytes", "shared_bytes", "instructions", "wgmma", "carried", "dot_side")
LAYER_NORM = {"layer_norm": "forward_kernel", "layer_norm_grad": "backward_kernel"}


def configurations():
    """Values of FIELDS except the capability."""
    for kernel in ("forward", "backward"):
        for dtype in ("fp16", "bf16"):
            for d in (16, 32, 64):
                yield kernel, dtype, "tf32", d, 7, False, True, False
            yield kernel, dtype, "tf32", 32, 7, True, True, False
        for precision in ("tf32", "tf32x3"):
            for d in (16, 32):
                yield kernel, "fp32", precision, d, 7, False, True, False
        yield kernel, "bf16", "tf32", 32, 7, False, False, False
        for window in (4, 5, 8):
            yield kernel, "bf16", "tf32", 32, window, False, True, False
    for kernel in WINDOWS_ONLY:
        yield kernel, "bf16", "tf32", 32, 7, False, True, False
    for dtype in DTYPES:
        for kernel in ("mean", *EPILOGUES, "depthwise_grad", *LAYER_NORM):
            yield kernel, dtype, "", "", "", "", "", False


def sized_configurations():
    """The same of kernels that are told the sizes of pictures in a padded batch."""
    for kernel in ("forward", "backward"):
        for d in (16, 32, 64):
            yield kernel, "bf16", "tf32", d, 7, False, True, True
        for d in (16, 32):
            yield kernel, "fp32", "tf32x3", d, 7, False, True, True
    for kernel in ("mean", *EPILOGUES, "depthwise_grad"):
        yield kernel, "bf16", "", "", "", "", "", True


def attention_source(kernel, dtype, precision, d, window, even, rope, sized):
    fn = window_attention.forward_kernel if kernel.startswith("forward") else window_attention.backward_kernel
    constants = dict(HEADS=HEADS, D=d, WINDOW=window, EVEN=even, PRECISION=precision)
    constants["TOKENS"] = window_attention.tile_tokens(window)
    if not rope:
        constants["rope"] = None
    if kernel in WINDOWS_ONLY:
        constants[WINDOWS_ONLY[kernel]] = None
    if not sized:
        constants["sizes"] = None
    types = dict.fromkeys(("mean", "grad_mean", "rope"), "*fp32")
    types.update(
        dict.fromkeys(("q", "k", "v", "out", "grad", "grad_qk", "grad_v"), f"*{dtype}"), scale="fp32", sizes="*i32"
    )
    return fn, constants, types


def mean_source(dtype, sized):
    constants = dict(
        CHANNELS=HEADS * 32, BLOCK_TOKENS=token_mean.BLOCK_TOKENS, BLOCK_CHANNELS=token_mean.BLOCK_CHANNELS
    )
    constants.update(MASK=sized, DIVIDE=sized)
    if not sized:
        constants["sizes"] = None
    return token_mean.mean_kernel, constants, dict(x=f"*{dtype}", sizes="*i32", out="*fp32", factor="fp32")


def depthwise_source(kernel, dtype, sized):
    C = HEADS * 32
    constants = dict(C=C, BLOCK_C=depthwise_kernels.block_channels(C))
    if kernel == "depthwise_grad":
        fn = depthwise_kernels.grad_kernel
        constants.update(ROWS=depthwise_kernels.GRAD_ROWS, COLS=depthwise_kernels.GRAD_COLS, RESIDUAL=True)
    else:
        fn = depthwise_kernels.forward_kernel
        constants.update(ROWS=depthwise_kernels.FORWARD_ROWS, COLS=depthwise_kernels.FORWARD_COLS, EPILOGUE=kernel)
        constants.update(dict.fromkeys(set(EPILOGUES["gate_grad"]) - set(EPILOGUES[kernel])))
    if not sized:
        constants["sizes"] = None
    types = dict.fromkeys(("x", "grad", "attention", "gate", "out", "grad_x", "grad_gate"), f"*{dtype}")
    return fn, constants, dict(types, weight="*fp32", bias="*fp32", sums="*fp32", sizes="*i32")


def layer_norm_source(kernel, dtype):
    C = HEADS * 32
    rows, block = layer_norm_kernels.tile_shape(C)
    types = dict.fromkeys(("x", "out", "grad", "grad_x"), f"*{dtype}")
    types.update(weight="*fp32", bias="*fp32", sums="*fp32", eps="fp32")
    return getattr(layer_norm_kernels, LAYER_NORM[kernel]), dict(C=C, ROWS=rows, BLOCK_C=block), types


def compile_one(job):
    kernel, dtype, *rest, capability = job
    if kernel == "mean":
        fn, constants, types = mean_source(dtype, rest[-1])
    elif kernel in ("forward", "backward", *WINDOWS_ONLY):
        fn, constants, types = attention_source(kernel, dtype, *rest)
    elif kernel in LAYER_NORM:
        fn, constants, types = layer_norm_source(kernel, dtype)
    else:
        fn, constants, types = depthwise_source(kernel, dtype, rest[-1])
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in fn.arg_names}
    aligned = [n.startswith("*") for n in signature.values()]  # pointers, and strides: all are multiples of 16 elements
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(fn.arg_names)
        if aligned[i] or (name.endswith("stride") and name not in constants)
    }
    if kernel == "mean":
        num_warps = token_mean.NUM_WARPS
    elif kernel in ("forward", "forward_windows"):
        num_warps = window_attention.NUM_WARPS
    elif kernel in ("backward", "backward_windows"):
        num_warps = window_attention.backward_warps(divmod(capability, 10), rest[1])
    elif kernel in LAYER_NORM:
        num_warps = layer_norm_kernels.NUM_WARPS
    else:
        num_warps = depthwise_kernels.NUM_WARPS
    options = dict(num_warps=num_warps)
    if kernel in ("forward", "forward_windows"):
        options["maxnreg"] = window_attention.forward_registers(DTYPES[dtype], *rest[1:3])
    compiled = triton.compile(
        ASTSource(fn, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        dump = [CUOBJDUMP, "-res-usage", "-sass", cubin.name]
        text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK"))
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/ +(?!.*\bNOP\b).*;", text, re.M))
    carried = re.search(r"scf\.for .*?iter_args\((.*?)\)", compiled.asm["ttir"])
    wgmma = "wgmma" in compiled.asm["ptx"]
    dots = re.findall(r"tt\.dot .*: tensor<(\d+)x(\d+)x\w+> \* tensor<\d+x(\d+)x", compiled.asm["ttir"])
    return (
        *job,
        registers,
        stack,
        compiled.metadata.shared,
        instructions,
        wgmma,
        carried[1].count("=") if carried else 0,
        min((int(side) for dot in dots for side in dot), default=""),
    )


def main():
    chosen = tuple(map(int, sys.argv[1:])) or CAPABILITIES
    jobs = [(*c, capability) for capability in CAPABILITIES if capability in chosen for c in configurations()]
    sized = [capability for capability in SIZED_CAPABILITIES if capability in chosen]
    jobs += [(*c, capability) for capability in sized for c in sized_configurations()]
    print(f"# triton {triton.__version__}")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*FIELDS, *MEASURES))
    with ProcessPoolExecutor(2) as pool:
        writer.writerows(pool.map(compile_one, jobs))


if __name__ == "__main__":
    main()
