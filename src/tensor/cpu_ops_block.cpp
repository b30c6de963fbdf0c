// SPDX-License-Identifier: Apache-2.0
// What a transformer block needs between its products. Bound: bytes.
#include <algorithm>
#include <cmath>

#include "cpu_math.hpp"
#include "cpu_ops.hpp"
#include "gradus/base/error.hpp"

namespace gradus::cpu {

void CpuOps::rms_norm(Tensor out, Tensor inv_rms, Tensor x, Tensor weight, float eps) {
    const auto n = weight.elements();
    const auto rows = inv_rms.elements();
    require(x.elements() == rows * n, "rms_norm: {} rows of {} from {}", rows, n,
            x.shape().text());
    const float* w = weight.f32();
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* in = x.f32() + r * n;
        float* to = out.f32() + r * n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t i = 0; i < n; ++i) sum += in[i] * in[i];
        const float inv = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
        inv_rms.f32()[r] = inv;
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) to[i] = in[i] * inv * w[i];
    }
}

void CpuOps::add_rms_norm(Tensor out, Tensor inv_rms, Tensor sum, Tensor x, Tensor delta,
                          Tensor weight, float eps) {
    const auto n = x.elements();
    require(sum.elements() == n && delta.elements() == n, "add_rms_norm: {} + {} to {}",
            x.shape().text(), delta.shape().text(), sum.shape().text());
    const float* a = x.f32();
    const float* b = delta.f32();
    float* to = sum.f32();
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) to[i] = a[i] + b[i];
    rms_norm(out, inv_rms, sum, weight, eps);
}

/// With u = x inv: d_x = inv (d_out w - u mean(d_out w u)), d_weight += d_out u.
void CpuOps::rms_norm_backward(Tensor d_x, Tensor d_weight, Tensor d_out, Tensor x, Tensor weight,
                               Tensor inv_rms, bool accumulate) {
    const auto n = weight.elements();
    const auto rows = inv_rms.elements();
    require(x.elements() == rows * n, "rms_norm_backward: {} rows of {} from {}", rows, n,
            x.shape().text());
    const float* w = weight.f32();
    float* dw = d_weight.f32();
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* in = x.f32() + r * n;
        const float* g = d_out.f32() + r * n;
        float* d = d_x.f32() + r * n;
        const float inv = inv_rms.f32()[r];
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (std::int64_t i = 0; i < n; ++i) {
            const float gx = g[i] * in[i];
            dot += gx * w[i];
            dw[i] += gx * inv;
        }
        const float back = dot * inv * inv * inv / static_cast<float>(n);
        if (accumulate) {
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) d[i] += g[i] * w[i] * inv - in[i] * back;
        } else {
#pragma omp simd
            for (std::int64_t i = 0; i < n; ++i) d[i] = g[i] * w[i] * inv - in[i] * back;
        }
    }
}

namespace {

/// cos and sin [2, half] of a position. The angle is rounded to float32 as in Hugging Face's rotary
/// embedding.
void write_angles(float* out, std::int64_t position, const float* frequency, std::int64_t half) {
    for (std::int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * frequency[i];
        out[i] = std::cos(angle);
        out[half + i] = std::sin(angle);
    }
}

}  // namespace

void CpuOps::extend_angles(std::int64_t rows, Tensor inv_freq) {
    const auto half = inv_freq.elements();
    require(half <= frequencies_.elements(), "rope: head dimension {} is above the limit {}",
            2 * half, limits_.max_head_dim);
    const float* f = inv_freq.f32();
    if (half != angle_half_ || !std::equal(f, f + half, frequencies_.f32())) {
        std::copy(f, f + half, frequencies_.f32());
        angle_half_ = half;
        angle_rows_ = 0;
    }
    for (; angle_rows_ < rows; ++angle_rows_) {
        write_angles(angles_.f32() + angle_rows_ * 2 * half, angle_rows_, f, half);
    }
}

namespace {

/// Turns the pairs of one head. `stride` is the distance between the numbers of a pair, `step`
/// between pairs.
template <std::int64_t kStep>
void turn(float* __restrict x, const float* __restrict cosine, const float* __restrict sine,
          std::int64_t half, std::int64_t stride, float scale, float sign) {
    for (std::int64_t i = 0; i < half; ++i) {
        const float a = x[i * kStep];
        const float b = x[i * kStep + stride];
        const float c = cosine[i] * scale;
        const float s = sine[i] * sign * scale;
        x[i * kStep] = a * c - b * s;
        x[i * kStep + stride] = b * c + a * s;
    }
}

}  // namespace

void CpuOps::rope(Tensor x, Tensor positions, Tensor inv_freq, const RotaryForm& form, float sign) {
    const auto tokens = x.dim(0), heads = x.dim(1), width = x.dim(2);
    const auto half = inv_freq.elements();
    require(form.begin + 2 * half <= width && positions.elements() >= tokens,
            "rope: x {}, {} frequencies from {}, {} positions", x.shape().text(), half, form.begin,
            positions.elements());
    if (tokens == 0) return;
    const std::int32_t* p = positions.i32();
    require(*std::min_element(p, p + tokens) >= 0, "rope: a position is negative");
    const std::int64_t table = angles_.dim(0) - 1;
    extend_angles(std::min<std::int64_t>(*std::max_element(p, p + tokens) + 1, table), inv_freq);
    for (std::int64_t t = 0; t < tokens; ++t) {
        // Positions beyond the table (generation may go on longer) use its last row as scratch.
        const auto angle_row = std::min<std::int64_t>(p[t], table);
        float* angle = angles_.f32() + angle_row * 2 * half;
        if (angle_row == table) write_angles(angle, p[t], inv_freq.f32(), half);
        float* row = x.f32() + t * heads * width + form.begin;
        for (std::int64_t h = 0; h < heads; ++h, row += width) {
            if (form.interleaved)
                turn<2>(row, angle, angle + half, half, 1, form.scale, sign);
            else
                turn<1>(row, angle, angle + half, half, half, form.scale, sign);
        }
    }
}

void CpuOps::split_heads(Tensor q, Tensor k, Tensor v, Tensor packed, Tensor bias,
                         Tensor positions, Tensor inv_freq, const RotaryForm& form) {
    const auto tokens = packed.dim(0), width = packed.shape().row_elements();
    const auto nq = q.shape().row_elements(), nkv = k.shape().row_elements();
    require(nq + 2 * nkv == width && v.shape().row_elements() == nkv &&
                (!bias || bias.elements() == width),
            "split_heads: {} into {}, {}, {}", packed.shape().text(), q.shape().text(),
            k.shape().text(), v.shape().text());
    const auto part = [&](Tensor out, std::int64_t begin) {
        const auto n = out.shape().row_elements();
        const float* b = bias ? bias.f32() + begin : nullptr;
        for (std::int64_t t = 0; t < tokens; ++t) {
            const float* __restrict from = packed.f32() + t * width + begin;
            float* __restrict to = out.f32() + t * n;
            if (b == nullptr)
                std::copy_n(from, n, to);
            else
                for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] + b[i];
        }
    };
    part(q, 0);
    part(k, nq);
    part(v, nq + nkv);
    if (!inv_freq) return;
    rope(q, positions, inv_freq, form, 1);
    rope(k, positions, inv_freq, form, 1);
}

void CpuOps::merge_heads(Tensor packed, Tensor d_q, Tensor d_k, Tensor d_v, Tensor positions,
                         Tensor inv_freq, const RotaryForm& form) {
    const auto tokens = packed.dim(0), width = packed.shape().row_elements();
    if (inv_freq) {
        rope(d_q, positions, inv_freq, form, -1);
        rope(d_k, positions, inv_freq, form, -1);
    }
    std::int64_t begin = 0;
    for (const Tensor& in : {d_q, d_k, d_v}) {
        const auto n = in.shape().row_elements();
        for (std::int64_t t = 0; t < tokens; ++t)
            std::copy_n(in.f32() + t * n, n, packed.f32() + t * width + begin);
        begin += n;
    }
    require(begin == width, "merge_heads: {} numbers of a token into {}", begin, width);
}

namespace {

/// Where gates and ups of a row lie.
struct GateUp {
    std::int64_t rows, columns, stride;

    GateUp(const Tensor& product, const Tensor& gate, const Tensor& up)
        : rows(up ? 1 : product.dim(0)),
          columns(up ? product.elements() : product.shape().row_elements()),
          stride(up ? columns : 2 * columns) {
        require(gate.elements() == rows * stride && (!up || up.elements() == columns),
                "swiglu: {}, {}, {}", product.shape().text(), gate.shape().text(),
                up.shape().text());
    }
    /// The ups of row r, where gate and up are one tensor or two.
    float* ups(const Tensor& gate, const Tensor& up, std::int64_t r) const {
        return up ? up.f32() : gate.f32() + r * stride + columns;
    }
};

}  // namespace

void CpuOps::swiglu(Tensor out, Tensor gate, Tensor up) {
    const GateUp at(out, gate, up);
    for (std::int64_t r = 0; r < at.rows; ++r) {
        float* o = out.f32() + r * at.columns;
        const float* g = gate.f32() + r * at.stride;
        const float* u = at.ups(gate, up, r);
#pragma omp simd
        for (std::int64_t i = 0; i < at.columns; ++i) o[i] = g[i] * sigmoid_f32(g[i]) * u[i];
    }
}

/// silu'(g) = s + g s (1 - s), s = sigmoid(g)
void CpuOps::swiglu_backward(Tensor d_gate, Tensor d_up, Tensor product, Tensor d_out, Tensor gate,
                             Tensor up) {
    const GateUp at(d_out, gate, up);
    // First, because the gradients may lie where gate and up do.
    if (product) swiglu(product, gate, up);
    for (std::int64_t r = 0; r < at.rows; ++r) {
        const float* d = d_out.f32() + r * at.columns;
        const float* g = gate.f32() + r * at.stride;
        const float* u = at.ups(gate, up, r);
        float* dg = d_gate.f32() + r * at.stride;
        float* du = at.ups(d_gate, d_up, r);
#pragma omp simd
        for (std::int64_t i = 0; i < at.columns; ++i) {
            const float s = sigmoid_f32(g[i]);
            const float silu = g[i] * s;
            const float out = d[i];
            const float slope = out * u[i] * (s + silu * (1.0f - s));
            dg[i] = slope;
            du[i] = out * silu;
        }
    }
}

}  // namespace gradus::cpu
