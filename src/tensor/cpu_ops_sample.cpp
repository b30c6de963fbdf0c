#include "cpu_ops.hpp"
namespace gradus::cpu { void CpuOps::sample(Tensor, Tensor, Tensor, Tensor, const SamplingOptions&) {} }
