// A network of 3x3 convolutions on CUDA: its layers in as few launches as pay, with weights that are packed together.

#include "core/conv_chain.h"
#include "cuda/device.h"
#include "cuda/thin_net.h"
#include "torch/conv_on_cuda.h"

namespace vsr::op {
namespace {

// pixel_shuffle(layer_L(... layer_1(x)), r) + residual; all layers but the last are followed by the activation.
class Chain {
 public:
  Chain(const char* op, const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
        const std::vector<Tensor>& slopes, double number, const std::string& activation, int64_t r, bool exact)
      : op_(op), dtype_(dtype_of(op, x)), exact_(exact) {
    const Activation kind = activation_of(op, activation);
    const size_t layers = weights.size(), inner = layers - 1;
    STD_TORCH_CHECK(layers > 0, op, ": weights: expected at least one, got none");
    STD_TORCH_CHECK(biases.empty() || biases.size() == layers, op, ": biases: expected none or ", layers, ", got ",
                    biases.size());
    STD_TORCH_CHECK(slopes.size() == (kind == Activation::prelu ? inner : 0), op, ": slopes: expected ",
                    kind == Activation::prelu ? inner : 0, ", got ", slopes.size());
    for (size_t layer = 0; layer < layers; ++layer) {
      const bool last = layer == inner;
      calls_.push_back({.op = op, .x = x, .weight = weights[layer], .exact = exact});
      ConvCall& call = calls_.back();
      if (!biases.empty()) call.bias = biases[layer];
      if (last) {
        call.r = r;
        continue;
      }
      call.activation = kind, call.number = number;
      if (kind == Activation::prelu) call.slope = slopes[layer];
    }
    // All of a weight's sizes but its input channels are checked with its call.
    for (const ConvCall& call : calls_) {
      check_image(op, "weight", call.weight);
      if (shape_.channels.empty()) shape_.channels.push_back(call.c_in());
      check(call, shape_.channels.back());
      STD_TORCH_CHECK(call.c_out() > 0, op, ": weight: expected output channels, got none");
      shape_.channels.push_back(call.c_out());
    }
    shape_.r = r;
    packings_ = chain_packings(shape_, dtype_, exact, packed_bytes_);
  }

  Tensor pack(cudaStream_t stream) const {
    const Tensor packed = bytes_on(calls_[0].weight, packed_bytes_);
    char* memory = static_cast<char*>(mutable_data(packed));
    for (size_t layer = 0; layer < calls_.size(); ++layer) {
      const ChainPacking& at = packings_[layer];
      pack_layer(calls_[layer], at.alone, memory + at.alone_at, stream);
      if (at.thin_at >= 0 && at.thin_at != at.alone_at) pack_layer(calls_[layer], at.thin, memory + at.thin_at, stream);
    }
    return packed;
  }

  Tensor run(const Tensor& x, const OptionalTensor& residual, const OptionalTensor& packed) {
    calls_.back().residual = residual;
    check_image(op_, "x", x);
    calls_[0].x = x;
    check(calls_[0]);
    ConvCall& end = calls_.back();
    end.x = x;  // whose image is as large as that of the last layer's input
    check(end, end.c_in());
    const Tensor out = make(x, end.output(), true);
    if (out.numel() == 0) return out;
    const StreamOf stream(x);
    const Tensor weights = packed ? checked(*packed) : pack(stream);
    Gpu gpu{};
    raise(op_, cuda::current_gpu(gpu));
    Tensor between = x;
    size_t first = 0;
    for (const int count : cut_chain(shape_, x.size(0), x.size(2), x.size(3), dtype_, exact_, gpu)) {
      const size_t last = first + count - 1;
      calls_[first].x = between;
      ConvCall& ending = calls_[last];
      ending.x = between;
      const Tensor result = last + 1 == calls_.size() ? out : make(x, ending.output(), true);
      if (count == 1)
        alone(first, weights, result, stream);
      else
        thin(static_cast<int>(first), count, weights, result, stream);
      between = result;
      first = last + 1;
    }
    return out;
  }

 private:
  Tensor checked(const Tensor& packed) const {
    check_shape(op_, "packed", packed, {packed_bytes_});
    STD_TORCH_CHECK(packed.scalar_type() == ScalarType::Byte && packed.is_contiguous() &&
                        packed.device() == calls_[0].weight.device(),
                    op_, ": packed: expected what conv_chain_pack returns on the device of x");
    return packed;
  }

  static void pack_layer(const ConvCall& call, const Conv3x3Layout& layout, void* memory, cudaStream_t stream) {
    pack_into(memory, call.op, call.weight, call.bias, call.slope, call.number, call.activation, false, layout, stream);
  }

  void alone(size_t layer, const Tensor& weights, const Tensor& result, cudaStream_t stream) {
    const ChainPacking& at = packings_[layer];
    Tensor part = weights;
    calls_[layer].packed = torch::stable::narrow(part, 0, at.alone_at, packed_bytes(at.alone));
    convolve_into(calls_[layer], result, std::nullopt, stream);
  }

  void thin(int first, int count, const Tensor& weights, const Tensor& result, cudaStream_t stream) const {
    const Tensor& x = calls_[first].x;
    const OptionalTensor residual = dense_on_vectors(calls_[first + count - 1].residual);
    ConvChain p{.x = data(x),
                .residual = data(residual),
                .out = mutable_data(result),
                .shape = thin_part(shape_, first, count),
                .xs = strides_of(x),
                .n = x.size(0),
                .h = x.size(2),
                .w = x.size(3),
                .scale = 1.0f,
                .dtype = dtype_};
    for (int i = 0; i < count; ++i) {
      p.packed[i] = static_cast<const char*>(data(weights)) + packings_[first + i].thin_at;
      p.activation[i] = calls_[first + i].activation;
    }
    raise(op_, cuda::launch_conv_chain(p, stream));
  }

  const char* op_;
  DType dtype_;
  bool exact_;
  std::vector<ConvCall> calls_;
  ChainShape shape_;
  std::vector<ChainPacking> packings_;
  int64_t packed_bytes_ = 0;
};

Tensor conv_chain(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                  const std::vector<Tensor>& slopes, double negative_slope, const std::string& activation,
                  const OptionalTensor& residual, int64_t r, bool exact, const OptionalTensor& packed) {
  return Chain("conv_chain", x, weights, biases, slopes, negative_slope, activation, r, exact).run(x, residual, packed);
}

Tensor conv_chain_pack(const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                       const std::vector<Tensor>& slopes, double negative_slope, const std::string& activation,
                       int64_t r, bool exact) {
  const char* op = "conv_chain_pack";
  STD_TORCH_CHECK(!weights.empty(), op, ": weights: expected at least one, got none");
  const Chain chain(op, weights[0], weights, biases, slopes, negative_slope, activation, r, exact);
  return chain.pack(StreamOf(weights[0]));
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CUDA, m) {
  m.impl("conv_chain", TORCH_BOX(&vsr::op::conv_chain));
  m.impl("conv_chain_pack", TORCH_BOX(&vsr::op::conv_chain_pack));
}
