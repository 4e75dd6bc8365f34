"""Convert a MILA (MLLA) checkpoint into weights of a mmsema backbone: exact for MILA, a warm start for SEMA.

Then: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=OUT)
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="MILA's file, a classifier or a detector")
    parser.add_argument("out", help="file to write, ends in .pth")
    arguments = parser.parse_args()
    if not arguments.out.endswith(".pth"):
        parser.error(f"out must end in .pth, got {arguments.out}")

    from mmsema.checkpoint import CheckpointError, convert_mila, find_state_dict, read_checkpoint, save_weights

    try:
        read = read_checkpoint(arguments.checkpoint)
        state = convert_mila(read)
        path = save_weights(state, arguments.out)
    except CheckpointError as error:
        print(f"error: {arguments.checkpoint}: {error}", file=sys.stderr)
        sys.exit(2)
    left_out = len(find_state_dict(read)) - len(state)
    print(f"{path}: {len(state)} tensors of the backbone; {left_out} left out (heads, RoPE tables, which are computed)")


if __name__ == "__main__":
    main()
