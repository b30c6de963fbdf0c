// SPDX-License-Identifier: Apache-2.0
// In place of cuda/ where the program is built without it.
#include "gradus/base/error.hpp"
#include "gradus/tensor/backend.hpp"

namespace gradus {
namespace {

[[noreturn]] void refuse() {
    throw DeckError(
        "run.device = cuda: this program was built without CUDA. Build it on a machine with the CUDA "
        "toolkit (jobs/build cuda-release), or set run.device = cpu");
}

}  // namespace

std::unique_ptr<CudaDevice> make_cuda_device(Communicator&, bool) { refuse(); }
std::unique_ptr<Ops> make_cuda_ops(const OpsLimits&, Arena&, CudaDevice*, const CudaOptions&) {
    refuse();
}

}  // namespace gradus
