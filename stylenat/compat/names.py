"""The names of `natten`, module by module and level by level: a table and nothing else."""

from __future__ import annotations

from stylenat.compat.levels import Level

_CLASSES = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


def _words(text: str) -> list[str]:
    return text.split()


_OLD_SWITCHES = _words("""
    enable_tf32 disable_tf32 enable_gemm_na disable_gemm_na enable_tiled_na disable_tiled_na
    has_cuda has_half has_bfloat has_gemm has_tf32_gemm has_fp32_gemm has_fp64_gemm
""")
# enable_fused_na, disable_fused_na, enable_autotuner: published code calls these names of versions
# between 0.15.1 and 0.17.0.
_SWITCHES = _words("""
    are_deterministic_algorithms_enabled use_deterministic_algorithms
    use_kv_parallelism_in_fused_na is_kv_parallelism_in_fused_na_enabled
    use_fna is_fna_enabled use_fused_na is_fused_na_enabled enable_fused_na disable_fused_na
    use_autotuner enable_autotuner disable_autotuner is_autotuner_enabled
    is_autotuner_enabled_for_forward is_autotuner_enabled_for_backward
    is_autotuner_thorough_for_forward is_autotuner_thorough_for_backward
    force_flex_attention use_flex_attention has_fna has_fused_na
    use_tf32_in_gemm_na use_tiled_na use_gemm_na
    is_tf32_in_gemm_na_enabled is_tiled_na_enabled is_gemm_na_enabled
    set_memory_usage_preference get_memory_usage_preference
    is_memory_usage_default is_memory_usage_strict is_memory_usage_unrestricted
""")
_CONTEXT = _words("""
    NattenContext AutotunerContext MemoryUsagePreference
    should_use_flex_attention should_force_flex_attention
""")
_FLOPS = _words("""
    add_natten_handle get_flops qk_rpb_flop av_flop
    qk_1d_rpb_flop qk_2d_rpb_flop av_1d_flop av_2d_flop
""")
_FLOPS_3D = _words("qk_3d_rpb_flop av_3d_flop")
_FLOPS_017 = _words("fna_flop_count na_qk_flop_count na_av_flop_count")
_CHECKS = _words("""
    check_all_args check_causal_arg check_input_size_arg check_dilation_arg check_kernel_size_arg
    check_tiling_config check_backward_tiling_config get_num_na_weights
""")
_TENSOR = _words("check_additional_keys check_additional_values make_attn_tensor_from_input")
_TESTING = _words("""
    skip_if_cuda_is_not_supported skip_if_gemm_is_not_supported skip_if_fna_is_not_supported
    skip_if_gemm_does_not_support_double_precision skip_if_nested_is_not_supported
    skip_if_experimental_ops_are_not_supported skip_if_fvcore_is_not_available
    skip_if_triton_is_not_supported skip_if_torch_compile_is_not_supported
    skip_if_torch_flop_count_is_not_supported fna_supports_additional_kv
""")


def _functional(level: Level) -> list[str]:
    dims = (1, 2, 3) if level.has_3d else (1, 2)
    old = [f"natten{d}d{part}" for d in dims for part in ("qkrpb", "qk", "av")]
    if not level.has_3d:
        return old + [f"NATTEN{d}D{part}Function" for d in dims for part in ("QKRPB", "AV")]
    names = old + [f"na{d}d_{part}" for d in dims for part in ("qk", "av")]
    names += [f"{name}{part}AutogradFunction" for name in _CLASSES for part in ("QK", "AV")]
    if not level.has_context:
        return [*names, *(f"na{d}d_qk_with_bias" for d in dims), *_OLD_SWITCHES]
    return names + [f"na{d}d" for d in dims] + [f"Fused{name}" for name in _CLASSES]


def modules(level: Level) -> dict[str, list[str]]:
    """Every module of `natten` at that level, and its names. A module without names is there to be
    imported."""
    classes = _CLASSES if level.has_3d else _CLASSES[:2]
    table = {
        "natten": classes,
        "natten.functional": _functional(level),
        "natten.flops": [*_FLOPS, *(_FLOPS_3D if level.has_3d else [])],
        **{f"natten.natten{name[-2]}d": [name] for name in classes},
    }
    if not level.has_3d:
        old = ["NeighborhoodAttention"] if level.kernel_first else []
        return {**table, "natten": [*classes, *old], "natten._C": []}
    table |= {"natten.nested": [], "natten.ops": []}
    utils = [*_CHECKS, *_TENSOR, "get_device_cc"]
    if not level.has_context:
        return {**table, "natten": [*classes, *_OLD_SWITCHES], "natten.utils": utils}
    switches = [*_SWITCHES, *_OLD_SWITCHES]
    return {
        **table,
        "natten": [*classes, *switches],
        **{f"natten.na{name[-2]}d": [name] for name in classes},
        "natten.context": [*_CONTEXT, *switches],
        "natten.flops": [*table["natten.flops"], *_FLOPS_017],
        "natten.experimental": ["na1d", "na2d", "na3d"],
        "natten.flex": ["flex_na1d", "flex_na2d", "flex_na3d"],
        "natten.autotuner": [],
        "natten.libnatten": ["compute_delta"],
        "natten.types": ["create_dim_from_int", "create_causal_arg_from_bool"],
        "natten.utils": utils,
        "natten.utils.checks": _CHECKS,
        "natten.utils.log": ["get_logger"],
        "natten.utils.misc": ["get_device_cc"],
        "natten.utils.tensor": _TENSOR,
        "natten.utils.testing": _TESTING,
    }
