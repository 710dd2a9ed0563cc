# Flags and variables for one kind of device, in one place. For bash, before anything is started:
#
#   source launch/environment.sh gpu     (or tpu, or cpu)
#
# What is set already wins: a flag or a variable of yours is kept as it is, and only what is missing
# is added. `env | grep -E 'XLA|LIBTPU|GLIBC|CUDA'` shows the outcome.

# seqrecipes_flag VARIABLE --name=value: appends the flag unless VARIABLE names it already.
seqrecipes_flag() {
  case " ${!1:-} " in
    *" ${2%%=*}="* | *" ${2%%=*} "*) ;;
    *) export "$1=${!1:+${!1} }$2" ;;
  esac
}

# seqrecipes_variable NAME VALUE: exports the variable unless it is set.
seqrecipes_variable() {
  export "$1=${!1:-$2}"
}

case "${1:-}" in
  gpu)
    # Collectives start early and end late, with arithmetic between them; XLA's own default is off.
    # docs.nvidia.com/jax-toolbox/environment-variables; docs.jax.dev/en/latest/gpu_performance_tips
    seqrecipes_flag XLA_FLAGS --xla_gpu_enable_latency_hiding_scheduler=true
    # Gradients are reduced in a few large pieces, parameters gathered likewise: launching a small
    # collective costs more than moving it. At least a layer should fit; the paper's has 50 MB in
    # float32. Reduce-scatter counts the scattered part. MaxText's GPU configurations have these.
    # docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
    seqrecipes_flag XLA_FLAGS --xla_gpu_all_reduce_combine_threshold_bytes=134217728
    seqrecipes_flag XLA_FLAGS --xla_gpu_all_gather_combine_threshold_bytes=134217728
    seqrecipes_flag XLA_FLAGS --xla_gpu_reduce_scatter_combine_threshold_bytes=67108864
    # JAX takes 0.75 of the memory by default and leaves more than NCCL, cuDNN and the CUDA context
    # need. It refuses to have both the old name and the new one.
    # docs.jax.dev/en/latest/201/gpu-memory.html
    if [ -z "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]; then
      seqrecipes_variable XLA_CLIENT_MEM_FRACTION 0.9
    fi
    ;;
  tpu)
    # Gathers and reductions run beside arithmetic, in steps that are fused with it. libtpu has most
    # of these on by default on some generations; named, they hold on all.
    # github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_enable_async_all_gather=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_enable_async_all_reduce=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_overlap_compute_collective_tc=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_enable_async_collective_fusion=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_enable_async_collective_fusion_multiple_steps=true
    # Several slices: gradients are reduced between them while the backward pass runs.
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_enable_data_parallel_all_reduce_opt=true
    seqrecipes_flag LIBTPU_INIT_ARGS --xla_tpu_data_parallel_opt_different_sized_ops=true
    ;;
  cpu)
    # glibc gives large blocks back to the kernel when they are freed, and the next step faults every
    # page in again: a fifth of a step's time. Where the kernel leaves large pages to programs that ask
    # for them, this asks: a fault then brings 2 MB in place of 4 kB. glibc 2.35 and later.
    # sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
    seqrecipes_variable GLIBC_TUNABLES glibc.malloc.hugetlb=1
    ;;
  *)
    echo "usage: source launch/environment.sh gpu|tpu|cpu" >&2
    unset -f seqrecipes_flag seqrecipes_variable
    # shellcheck disable=SC2317 -- executed instead of sourced, it has nothing to return from
    return 2 2>/dev/null || exit 2
    ;;
esac
unset -f seqrecipes_flag seqrecipes_variable
