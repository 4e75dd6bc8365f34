# ImageNet-1k classification, SEMA-B, parameters and optimiser state sharded over the GPUs (FSDP).
# Paper's row: none, this size is ours. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/sema-b_8xb128-fsdp_in1k.py 8
_base_ = "./sema-b_8xb128_in1k.py"

runner_type = "FlexibleRunner"
strategy = dict(
    type="FSDPStrategy",
    state_dict_cfg="full",  # one checkpoint file that every tool reads, not one folder of shards
    model_wrapper=dict(
        auto_wrap_policy=dict(type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy", min_num_params=1_000_000),
    ),
)
