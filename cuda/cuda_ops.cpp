// SPDX-License-Identifier: Apache-2.0
#include "cuda_ops.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "gradus/base/profile.hpp"
#include "gradus/tensor/convert.hpp"
#include "kernels.hpp"

namespace gradus::cuda {

UploadRing::UploadRing(Device& pinned)
    : pinned_(pinned), memory_(static_cast<char*>(pinned.allocate(kPieces * kPiece))) {
    for (cudaEvent_t& event : free_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

UploadRing::~UploadRing() {
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
    pinned_.release(memory_, kPieces * kPiece);
}

void UploadRing::upload(cudaStream_t stream, void* to, const void* from, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes;) {
        if (used_ == kPiece) {
            check(cudaEventRecord(free_[static_cast<std::size_t>(piece_)], stream));
            piece_ = (piece_ + 1) % kPieces;
            used_ = 0;
            check(cudaEventSynchronize(free_[static_cast<std::size_t>(piece_)]));
        }
        const std::int64_t n = std::min(bytes - at, kPiece - used_);
        char* staged = memory_ + piece_ * kPiece + used_;
        std::memcpy(staged, static_cast<const char*>(from) + at, static_cast<std::size_t>(n));
        check(cudaMemcpyAsync(static_cast<char*>(to) + at, staged, static_cast<std::size_t>(n),
                              cudaMemcpyDefault, stream));
        used_ += n;
        at += n;
    }
    // Arrays begin at multiples of 16 bytes.
    used_ = std::min(kPiece, (used_ + 15) / 16 * 16);
}

namespace {

class CudaRecording final : public Recording {
  public:
    CudaRecording(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
    ~CudaRecording() override { cudaGraphExecDestroy(graph_); }
    void replay() override { check(cudaGraphLaunch(graph_, stream_)); }

  private:
    cudaGraphExec_t graph_;
    cudaStream_t stream_;
};

/// Work that goes through the host in between, which no graph can hold.
class RepeatedWork final : public Recording {
  public:
    explicit RepeatedWork(std::function<void()> work) : work_(std::move(work)) {}
    void replay() override { work_(); }

  private:
    std::function<void()> work_;
};

std::int64_t workspace_bytes(const OpsLimits& limits, bool deterministic) {
    return std::max({bias_workspace(limits), embedding_workspace(limits), rms_norm_workspace(limits),
                     routing_workspace(limits), flash_attention_workspace(limits),
                     decode_attention_workspace(limits), optimizer_workspace(limits),
                     CudnnAttention::workspace(limits, deterministic)});
}

Tensor take_bytes(Arena& arena, std::int64_t bytes) {
    return arena.take("workspace", DType::i32, {(bytes + 3) / 4});
}

}  // namespace

CudaOps::CudaOps(const OpsLimits& limits, Arena& arena, CudaDevice* device,
                 const CudaOptions& options)
    : options_(options),
      shared_(device != nullptr && device->is_shared()),
      workspace_(take_bytes(arena, workspace_bytes(limits, options.deterministic))),
      product_workspace_(take_bytes(arena, Matmul::kWorkspace)) {
    if (device == nullptr) return;  // planned
    int number = 0;
    check(cudaGetDevice(&number));
    check(cudaDeviceGetAttribute(&context_.multiprocessors, cudaDevAttrMultiProcessorCount, number));
    check(cudaStreamCreateWithFlags(&context_.stream, cudaStreamNonBlocking));
    context_.workspace = workspace_.data();
    context_.workspace_bytes = workspace_.bytes();
    context_.deterministic = options.deterministic;
    pinned_ = &device->pinned();
    ring_.emplace(*pinned_);
    landing_ = pinned_->allocate(UploadRing::kPiece);
    matmul_ = std::make_unique<Matmul>(context_);
    experts_ = std::make_unique<ExpertProducts>(context_, product_workspace_.data(), Matmul::kWorkspace);
    cudnn_ = std::make_unique<CudnnAttention>();
    collectives_ = std::make_unique<Collectives>(context_, options.deterministic, options.overlap);
}

CudaOps::~CudaOps() {
    if (context_.stream == nullptr) return;
    collectives_.reset();
    cudaStreamSynchronize(context_.stream);
    cudnn_.reset();
    experts_.reset();
    matmul_.reset();
    ring_.reset();
    pinned_->release(landing_, UploadRing::kPiece);
    cudaStreamDestroy(context_.stream);
}

std::int64_t CudaOps::recorded_rows(std::int64_t rows) const {
    const std::int64_t step = rows <= 8 ? 1 : rows <= 64 ? 8 : rows <= 256 ? 16 : 32;
    return (rows + step - 1) / step * step;
}

void CudaOps::wait() {
    const double began = now_seconds();
    constexpr double kBusySeconds = 0.01;
    double next_look = began + kBusySeconds;
    for (;;) {
        const cudaError_t status = cudaStreamQuery(context_.stream);
        if (status == cudaSuccess) return;
        if (status != cudaErrorNotReady) check(status);
        const double now = now_seconds();
        if (now - began < kBusySeconds) continue;
        // A long wait: no need to keep the core busy, and time to look after the collectives.
        std::this_thread::sleep_for(std::chrono::microseconds(20));
        if (!collectives_->used() || now < next_look) continue;
        next_look = now + kBusySeconds;
        collectives_->check_failures();
        require<CudaError>(now - began < options_.timeout,
                           "the GPU has not come to an end within run.timeout = {} s; the last collective "
                           "that was started is {}",
                           options_.timeout, collectives_->last());
    }
}

void CudaOps::synchronize() { wait(); }

void CudaOps::upload(Tensor to, const void* from) {
    ring_->upload(context_.stream, to.data(), from, to.bytes());
}

void CudaOps::download(void* to, Tensor from) {
    const auto bytes = static_cast<std::size_t>(from.bytes());
    if (bytes == 0) return;
    const bool is_small = from.bytes() <= UploadRing::kPiece;
    check(cudaMemcpyAsync(is_small ? landing_ : to, from.data(), bytes, cudaMemcpyDefault,
                          context_.stream));
    wait();
    if (is_small) std::memcpy(to, landing_, bytes);
}

std::unique_ptr<Recording> CudaOps::record(std::function<void()> work) {
    if (is_staged()) {  // its collectives wait for the device
        work();
        return std::make_unique<RepeatedWork>(std::move(work));
    }
    check(cudaStreamBeginCapture(context_.stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
        work();
    } catch (...) {
        cudaStreamEndCapture(context_.stream, &graph);
        if (graph != nullptr) cudaGraphDestroy(graph);
        throw;
    }
    check(cudaStreamEndCapture(context_.stream, &graph));
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
    auto recording = std::make_unique<CudaRecording>(executable, context_.stream);
    recording->replay();
    return recording;
}

void CudaOps::all_reduce(Communicator& group, Tensor x, Reduce op) {
    if (x.elements() == 0) return;
    if (!is_staged()) return collectives_->all_reduce(group, x, op);
    std::vector<float> values(static_cast<std::size_t>(x.elements()));
    if (x.dtype() == DType::f32) {
        download(values.data(), x);
        group.all_reduce(std::span(values), op);
        return upload(x, values.data());
    }
    std::vector<std::uint16_t> halves(values.size());
    download(halves.data(), x);
    to_f32(x.dtype(), halves.data(), values.data(), x.elements());
    group.all_reduce(std::span(values), op);
    from_f32(x.dtype(), values.data(), halves.data(), x.elements());
    upload(x, halves.data());
}

void CudaOps::start_sum(Communicator& group, Tensor x) {
    if (group.size() == 1 || x.elements() == 0) return;  // nothing to add; x is its sum
    if (is_staged()) return all_reduce(group, x, Reduce::sum);
    collectives_->start_sum(group, x);
}

void CudaOps::start_block_sums(Communicator& group, std::span<const BlockedTensor> all) {
    if (group.size() == 1) return;
    if (!is_staged()) return collectives_->start_block_sums(group, all);
    for (const BlockedTensor& one : all) {
        std::vector<float> values(static_cast<std::size_t>(one.x.elements()));
        download(values.data(), one.x);
        group.reduce_scatter_blocks(values, one.elements());
        upload(one.x, values.data());
    }
}

void CudaOps::finish_sums() {
    if (collectives_) collectives_->finish_sums();
}

void CudaOps::all_gather_blocks(Communicator& group, std::span<const BlockedTensor> all) {
    if (!is_staged()) return collectives_->all_gather_blocks(group, all);
    for (const auto& [x, offsets] : all) {
        std::vector<std::byte> bytes(static_cast<std::size_t>(x.bytes()));
        download(bytes.data(), x);
        group.all_gather_blocks(bytes, offsets);
        upload(x, bytes.data());
    }
}

void CudaOps::all_to_all(Communicator& group, Tensor send,
                         std::span<const std::int64_t> send_offsets, Tensor recv,
                         std::span<const std::int64_t> recv_offsets) {
    if (!is_staged()) return collectives_->all_to_all(group, send, send_offsets, recv, recv_offsets);
    std::vector<std::byte> out(static_cast<std::size_t>(send.bytes())), in(static_cast<std::size_t>(recv.bytes()));
    download(out.data(), send);
    group.all_to_all(out, send_offsets, in, recv_offsets);
    upload(recv, in.data());
}

std::string CudaOps::report() const { return matmul_ ? matmul_->choices() : ""; }

void CudaOps::gemm(Tensor c, Tensor a, Transpose ta, Tensor b, Transpose tb, float alpha, float beta) {
    const bool at = ta == Transpose::yes, bt = tb == Transpose::yes;
    const std::int64_t m = c.dim(0), n = c.shape().row_elements();
    const std::int64_t a_columns = a.shape().row_elements(), b_columns = b.shape().row_elements();
    const std::int64_t k = at ? a.dim(0) : a_columns;
    require((at ? a_columns : a.dim(0)) == m && (bt ? b.dim(0) : b_columns) == n &&
                (bt ? b_columns : b.dim(0)) == k && a.dtype() == b.dtype(),
            "gemm: {}{} times {}{} does not give {}", a.shape().text(), at ? "^T" : "",
            b.shape().text(), bt ? "^T" : "", c.shape().text());
    if (m == 0 || n == 0) return;
    if (k == 0) {
        if (beta != 1) beta == 0 ? fill(c, 0) : scale(c, beta);
        return;
    }
    matmul_->run(context_,
                 {.m = m,
                  .n = n,
                  .k = k,
                  .transpose_a = at,
                  .transpose_b = bt,
                  .lda = a_columns,
                  .ldb = b_columns,
                  .ldc = n,
                  .in = a.dtype(),
                  .out = c.dtype()},
                 a.data(), b.data(), c.data(), alpha, beta, product_workspace_.data());
}

void CudaOps::head_gemm(Tensor out, Tensor in, Tensor weight, const HeadProduct& p) {
    const std::int64_t tokens = in.dim(0), heads = in.dim(1), columns = weight.dim(2);
    const bool transposed = p.transpose == Transpose::yes;
    const std::int64_t k = transposed ? columns : p.rows, n = transposed ? p.rows : columns;
    require(weight.dim(0) == heads && out.dim(0) == tokens && out.dim(1) == heads &&
                p.row + p.rows <= weight.dim(1) && p.in_begin + k <= in.dim(2) &&
                p.out_begin + n <= out.dim(2),
            "head_gemm: {} times {} (rows {} .. {}) to {}", in.shape().text(), weight.shape().text(),
            p.row, p.row + p.rows, out.shape().text());
    if (tokens == 0) return;
    const auto from = [](const Tensor& x, std::int64_t element) {
        return static_cast<char*>(x.data()) + element * size_of(x.dtype());
    };
    matmul_->run(context_,
                 {.m = tokens,
                  .n = n,
                  .k = k,
                  .transpose_b = transposed,
                  .lda = heads * in.dim(2),
                  .ldb = columns,
                  .ldc = heads * out.dim(2),
                  .in = in.dtype(),
                  .out = out.dtype(),
                  .batch = heads,
                  .stride_a = in.dim(2),
                  .stride_b = weight.dim(1) * columns,
                  .stride_c = out.dim(2)},
                 from(in, p.in_begin), from(weight, p.row * columns), from(out, p.out_begin), 1, 0,
                 product_workspace_.data());
}

void CudaOps::expert_gemm(Tensor out, Tensor in, Tensor weight, Transpose transpose,
                          std::span<const std::int64_t> rows, float beta) {
    experts_->forward(out, in, weight, transpose, rows, beta);
}

void CudaOps::expert_gemm_backward(Tensor d_weight, Tensor d_out, Tensor in,
                                   std::span<const std::int64_t> rows) {
    experts_->backward(d_weight, d_out, in, rows);
}

void CudaOps::attention(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const Packing& packing,
                        const AttentionShape& shape) {
    if (q.elements() > 0 && cudnn_->supports(context_, shape, packing, q.dtype(), false))
        cudnn_->forward(context_, out, lse, q, k, v, packing, shape);
    else
        flash_attention(context_, out, lse, q, k, v, packing, shape);
}

void CudaOps::attention_backward(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, Tensor k,
                                 Tensor v, Tensor out, Tensor lse, const Packing& packing,
                                 const AttentionShape& shape) {
    if (q.elements() > 0 && cudnn_->supports(context_, shape, packing, q.dtype(), true))
        cudnn_->backward(context_, d_q, d_k, d_v, d_out, q, k, v, out, lse, packing, shape);
    else
        flash_attention_backward(context_, d_q, d_k, d_v, d_out, q, k, v, out, lse, packing, shape);
}

// The rest are kernels.

void CudaOps::add_bias(Tensor x, Tensor bias) {
    cuda::add_bias(context_, x, bias);
}

void CudaOps::add_bias_backward(Tensor d_bias, Tensor d_out) {
    cuda::add_bias_backward(context_, d_bias, d_out);
}

void CudaOps::fill(Tensor x, float value) {
    cuda::fill(context_, x, value);
}

void CudaOps::copy(Tensor out, Tensor in) {
    cuda::copy(context_, out, in);
}

void CudaOps::fill_normal(Tensor x, const NormalFill& fill) {
    cuda::fill_normal(context_, x, fill);
}

void CudaOps::add(Tensor x, Tensor y) {
    cuda::add(context_, x, y);
}

void CudaOps::scale(Tensor x, float factor) {
    cuda::scale(context_, x, factor);
}

void CudaOps::gather_rows(Tensor out, Tensor in, Tensor index) {
    cuda::gather_rows(context_, out, in, index);
}

void CudaOps::scatter_add_rows(Tensor out, Tensor in, Tensor index) {
    cuda::scatter_add_rows(context_, out, in, index);
}

void CudaOps::copy_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                           std::int64_t width) {
    cuda::copy_columns(context_, out, out_begin, in, in_begin, width);
}

void CudaOps::sum_columns(Tensor out, std::int64_t out_begin, Tensor in, std::int64_t in_begin,
                          std::int64_t width) {
    cuda::sum_columns(context_, out, out_begin, in, in_begin, width);
}

void CudaOps::scale_rows(Tensor x, Tensor factor) {
    cuda::scale_rows(context_, x, factor);
}

void CudaOps::row_dots(Tensor out, Tensor a, Tensor b) {
    cuda::row_dots(context_, out, a, b);
}

void CudaOps::sum_rows(Tensor out, Tensor in, Tensor place, bool accumulate) {
    cuda::sum_rows(context_, out, in, place, accumulate);
}

void CudaOps::embedding(Tensor out, Tensor table, Tensor tokens, std::int64_t offset) {
    cuda::embedding(context_, out, table, tokens, offset);
}

void CudaOps::embedding_backward(Tensor d_table, Tensor d_out, Tensor tokens, std::int64_t offset) {
    cuda::embedding_backward(context_, d_table, d_out, tokens, offset);
}

void CudaOps::rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) {
    cuda::rms_norm(context_, out, inv_rms, x, weight, eps);
}

void CudaOps::add_rms_norm(Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta,
                           Tensor weight, float eps) {
    cuda::add_rms_norm(context_, out, inv_rms, sum, x, delta, weight, eps);
}

void CudaOps::rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x, Tensor weight,
                                Tensor inv_rms, bool accumulate) {
    cuda::rms_norm_backward(context_, d_x, d_weight, d_out, x, weight, inv_rms, accumulate);
}

void CudaOps::rope(Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form,
                   float sign) {
    cuda::rope(context_, x, positions, inv_freq, form, sign);
}

void CudaOps::split_heads(Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias,
                          Tensor positions, Tensor inv_freq, const RotaryForm& form) {
    cuda::split_heads(context_, q, k, v, packed, bias, positions, inv_freq, form);
}

void CudaOps::merge_heads(Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v, Tensor positions,
                          Tensor inv_freq, const RotaryForm& form) {
    cuda::merge_heads(context_, packed, d_q, d_k, d_v, positions, inv_freq, form);
}

void CudaOps::swiglu(Tensor out, Tensor gate, Tensor up) {
    cuda::swiglu(context_, out, gate, up);
}

void CudaOps::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out, Tensor gate,
                              Tensor up) {
    cuda::swiglu_backward(context_, d_gate, d_up, product, d_out, gate, up);
}

void CudaOps::route(Tensor scores, Tensor chosen, Tensor weights, Tensor logits, Tensor bias,
                    const RouterShape& shape) {
    cuda::route(context_, scores, chosen, weights, logits, bias, shape);
}

void CudaOps::route_backward(Tensor d_logits, Tensor d_weights, Tensor d_scores, Tensor scores,
                             Tensor chosen, const RouterShape& shape) {
    cuda::route_backward(context_, d_logits, d_weights, d_scores, scores, chosen, shape);
}

void CudaOps::route_balance(Tensor loss, Tensor d_scores, Tensor scores, const Packing& packing,
                            const RouterShape& shape, float coef) {
    cuda::route_balance(context_, loss, d_scores, scores, packing, shape, coef);
}

void CudaOps::sort_by_expert(Tensor order, Tensor source, Tensor place, Tensor rows,
                             Tensor chosen) {
    cuda::sort_by_expert(context_, order, source, place, rows, chosen);
}

void CudaOps::kv_store(const PagedCache& cache, Tensor k, Tensor v, Tensor slot) {
    cuda::kv_store(context_, cache, k, v, slot);
}

void CudaOps::kv_copy_pages(const PagedCache& cache, Tensor from, Tensor to) {
    cuda::kv_copy_pages(context_, cache, from, to);
}

void CudaOps::attention_decode(Tensor out, Tensor q, const PagedCache& cache, Tensor page_table,
                               Tensor lengths, const AttentionShape& shape) {
    cuda::decode_attention(context_, out, q, cache, page_table, lengths, shape);
}

void CudaOps::head_max(Tensor row_max, Tensor logits, float inv_temperature) {
    cuda::head_max(context_, row_max, logits, inv_temperature);
}

void CudaOps::head_sums(Tensor sums, Tensor logits, Tensor row_max, Tensor targets,
                        std::int64_t offset, float inv_temperature) {
    cuda::head_sums(context_, sums, logits, row_max, targets, offset, inv_temperature);
}

void CudaOps::head_statistics(Tensor row_max, Tensor sums, Tensor logits, Tensor targets,
                              float inv_temperature) {
    cuda::head_statistics(context_, row_max, sums, logits, targets, inv_temperature);
}

void CudaOps::head_finish(Tensor log_prob, Tensor entropy, Tensor sums) {
    cuda::head_finish(context_, log_prob, entropy, sums);
}

void CudaOps::head_backward(Tensor d_logits, Tensor logits, Tensor row_max, Tensor sums,
                            Tensor targets, Tensor d_log_prob, Tensor d_entropy,
                            std::int64_t offset, float inv_temperature) {
    cuda::head_backward(context_, d_logits, logits, row_max, sums, targets, d_log_prob,
                        d_entropy, offset, inv_temperature);
}

void CudaOps::sample(Tensor tokens, Tensor log_probs, Tensor logits, Tensor bits,
                     const SamplingOptions& options) {
    cuda::sample(context_, tokens, log_probs, logits, bits, options);
}

void CudaOps::sum_squares(Tensor result, Tensor x) {
    cuda::sum_squares(context_, result, x);
}

void CudaOps::adamw(Tensor param, Tensor weight, Tensor grad, Tensor m, Tensor v,
                    const AdamWStep& step) {
    cuda::adamw(context_, param, weight, grad, m, v, step);
}

}  // namespace gradus::cuda

namespace gradus {

std::unique_ptr<Ops> make_cuda_ops(const OpsLimits& limits, Arena& arena, CudaDevice* device,
                                   const CudaOptions& options) {
    return std::make_unique<cuda::CudaOps>(limits, arena, device, options);
}

}  // namespace gradus
