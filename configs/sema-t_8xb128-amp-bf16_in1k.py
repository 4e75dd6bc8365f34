# ImageNet-1k classification, SEMA-T, bfloat16 mixed precision.
# Paper's row: 83.7 % top-1, precision not stated. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/sema-t_8xb128-amp-bf16_in1k.py 8
_base_ = "./sema-t_8xb128_in1k.py"

optim_wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=1.0)
