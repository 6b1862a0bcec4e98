// launch   many rows: one per chunk of parallel_for. Few rows of a long vocabulary: one after the other, each in chunks
//          of 8192 ids. The arithmetic is the same: partial results per chunk, combined in order
// traffic  vocab_size * 4 bytes per row for greedy, up to four times that for top-k, top-p and the draw, from cache
// why      nothing is sorted and the adjusted row is never stored: penalties and biases touch a few ids, which are
//          patched into blocks of 256 as they are read. See support/vocab_select.h
#include "ops/sample.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/philox.h"
#include "support/vocab_select.h"

namespace openmoe::OPENMOE_ISA {

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// An id whose score differs from its logit.
struct Edit {
  int32_t id;
  float score;
};

struct ChunkStats {
  float max_logit, max_score, poison;  // poison: NaN when a logit is NaN or +infinity, else 0
  double sum_exp;                      // of logits relative to max_logit, where probabilities are wanted
};

// Working memory of one row, cut from one block; without a block it only measures.
class Workspace {
 public:
  Workspace(const Sample& a, std::byte* block) : block_(block) {
    const int64_t chunks = (a.vocab_size + kChunk - 1) / kChunk, touches = int64_t{a.max_history} + a.max_bias;
    mass = take<double>((chunks + 1) * (kNumBuckets + 1));
    members = take<Key>(a.vocab_size);
    top = take<Key>(chunks * a.num_top);
    touched = take<uint64_t>(touches);
    stats = take<ChunkStats>(chunks);
    edits = take<Edit>(touches);
    count = take<int32_t>((chunks + 1) * (kNumBuckets + 1));  // the narrow ones last: each take is aligned
    bucket = take<uint16_t>(a.vocab_size);
  }
  int64_t bytes() const { return bytes_; }

  double* mass;
  int32_t* count;
  uint16_t* bucket;
  Key *members, *top;
  uint64_t* touched;
  ChunkStats* stats;
  Edit* edits;

 private:
  template <class T>
  T* take(int64_t n) {
    T* p = block_ ? reinterpret_cast<T*>(block_ + bytes_) : nullptr;
    bytes_ += n * sizeof(T);
    return p;
  }
  std::byte* block_;
  int64_t bytes_ = 0;
};

class Row {
 public:
  // `shared`: the chunks of this row may go to all threads.
  Row(const Sample& a, Cpu& cpu, int64_t row, bool shared, std::byte* memory)
      : a_(a),
        cpu_(cpu),
        row_(row),
        shared_(shared),
        with_sum_(a.logprob || a.num_top > 0),
        vocab_(a.vocab_limit > 0 ? std::min(a.vocab_limit, a.vocab_size) : a.vocab_size),
        chunks_((vocab_ + kChunk - 1) / kChunk),
        logits_(a.logits.as<float>() + row * a.vocab_size),
        floats_(a.floats.as<float>() + row * sample_floats::count),
        ints_(a.ints.as<int32_t>() + row * sample_ints::count),
        work_(a, memory) {}

  void run() {
    const bool valid = adjust() && measure();
    const int32_t token = valid ? choose() : -1;
    a_.token.as<int32_t>()[row_] = token;
    if (a_.logprob) a_.logprob.as<float>()[row_] = token < 0 ? kNaN : logprob(logits_[token]);
    if (a_.num_top > 0) write_top(valid);
  }

 private:
  template <class F>
  void for_chunks(F&& body) const {
    if (!shared_) {
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) body(chunk);
      return;
    }
    cpu_.parallel_for(chunks_, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t chunk = begin; chunk < end; ++chunk) body(chunk);
    });
  }

  // The scores of n <= kBlock ids: the logits themselves where nothing touched them.
  const float* scores(int64_t first, int64_t n, float* buffer) const {
    const Edit* end = work_.edits + num_edits_;
    const Edit* edit =
        std::partition_point(static_cast<const Edit*>(work_.edits), end, [&](const Edit& e) { return e.id < first; });
    if (edit == end || edit->id >= first + n) return logits_ + first;
    std::copy_n(logits_ + first, n, buffer);
    for (; edit < end && edit->id < first + n; ++edit) buffer[edit->id - first] = edit->score;
    return buffer;
  }

  // Penalties and biases, as a list of edits by id. False if they leave no number.
  bool adjust() {
    const float repetition = floats_[sample_floats::repetition_penalty];
    const float frequency = floats_[sample_floats::frequency_penalty];
    const float presence = floats_[sample_floats::presence_penalty];
    constexpr uint64_t kPrompt = 0, kOutput = 1, kBias = 2;  // the order in which they act on an id
    uint64_t* end = work_.touched;
    const auto touch = [&](int32_t id, uint64_t how) {
      if (id >= 0 && id < vocab_) *end++ = static_cast<uint64_t>(id) << 32 | how;
    };
    if (repetition != 1 || frequency != 0 || presence != 0)
      for (int i = 0; i < ints_[sample_ints::history_length]; ++i)
        touch(a_.history.as<int32_t>()[row_ * a_.max_history + i],
              i < ints_[sample_ints::prompt_length] ? kPrompt : kOutput);
    for (int i = 0; i < ints_[sample_ints::num_bias]; ++i)
      touch(a_.bias_ids.as<int32_t>()[row_ * a_.max_bias + i], kBias + i);
    std::sort(work_.touched, end);

    for (const uint64_t* at = work_.touched; at < end;) {
      const auto id = static_cast<int32_t>(*at >> 32);
      const auto how = [&] { return static_cast<uint32_t>(*at); };
      const auto more = [&] { return at < end && static_cast<int32_t>(*at >> 32) == id; };
      float score = logits_[id];
      if (how() < kBias) score = score > 0 ? score / repetition : score * repetition;
      int outputs = 0;
      for (; more() && how() < kBias; ++at) outputs += how() == kOutput;
      if (outputs > 0) score -= frequency * static_cast<float>(outputs) + presence;
      for (; more(); ++at) score += a_.bias_values.as<float>()[row_ * a_.max_bias + (how() - kBias)];
      if (!(score < kInfinity)) return false;  // NaN too
      work_.edits[num_edits_++] = {id, score};
    }
    return true;
  }

  // The largest score, and the log-sum-exp of the logits if wanted. False for a row that nothing can be taken from.
  bool measure() {
    for_chunks([&](int64_t chunk) { work_.stats[chunk] = chunk_stats(chunk); });
    best_ = max_logit_ = -kInfinity;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      if (work_.stats[chunk].poison != 0) return false;
      best_ = std::max(best_, work_.stats[chunk].max_score);
      max_logit_ = std::max(max_logit_, work_.stats[chunk].max_logit);
    }
    if (best_ == -kInfinity || !with_sum_) return best_ > -kInfinity;
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk)
      sum += work_.stats[chunk].sum_exp * std::exp(double{work_.stats[chunk].max_logit} - max_logit_);
    log_sum_ = max_logit_ + std::log(sum);
    return std::isfinite(log_sum_);
  }

  ChunkStats chunk_stats(int64_t chunk) const {
    const int64_t begin = chunk * kChunk, end = std::min(vocab_, begin + kChunk);
    Vec max_logit = set1(-kInfinity), max_score = max_logit, poison = zero();
    float buffer[kBlock];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      const float* s = scores(first, n, buffer);
      const Vec block = max_of(logits_ + first, n);
      max_logit = max(block, max_logit);
      poison = add(poison, poison_of(logits_ + first, n));
      max_score = max(s == logits_ + first ? block : max_of(s, n), max_score);
    }
    ChunkStats stats{reduce_max(max_logit), reduce_max(max_score), reduce_add(poison), 0};
    if (!with_sum_) return stats;
    const Weight weight(stats.max_logit > -kInfinity ? stats.max_logit : 0.0f, 1.0f);
    for (int64_t first = begin; first < end; first += kBlock) {
      Vec sum = zero();
      for_vectors(std::min(kBlock, end - first),
                  [&](int64_t i, auto lanes) { sum = add(sum, weight(load_scores(logits_ + first + i, lanes))); });
      stats.sum_exp += reduce_add(sum);
    }
    return stats;
  }

  int32_t choose() const {
    const int32_t forced = ints_[sample_ints::forced_id];
    if (forced >= 0) return forced < vocab_ ? forced : -1;
    return floats_[sample_floats::temperature] > 0 ? draw() : greedy();
  }

  int32_t greedy() const {
    const auto is_best = [&](const ChunkStats& stats) { return stats.max_score == best_; };
    int64_t first = kChunk * (std::find_if(work_.stats, work_.stats + chunks_, is_best) - work_.stats);
    float buffer[kBlock];
    for (; first < vocab_; first += kBlock) {
      const int64_t n = std::min(kBlock, vocab_ - first);
      const float* s = scores(first, n, buffer);
      const float* found = std::find(s, s + n, best_);
      if (found != s + n) return static_cast<int32_t>(first + (found - s));
    }
    return -1;
  }

  int32_t draw() const {
    const float temperature = floats_[sample_floats::temperature];
    const Buckets buckets{vocab_,       best_,        Weight(best_, temperature), work_.mass, work_.count,
                          work_.bucket, work_.members};
    const auto score_of_ids = [this](int64_t first, int64_t n, float* buffer) { return scores(first, n, buffer); };
    const auto chunks = [this](auto&& body) { for_chunks(body); };
    const auto shortest = [&](double mass, int64_t count) {
      return find_prefix(buckets, mass, count, score_of_ids, chunks);
    };

    Prefix kept = fill_buckets(buckets, score_of_ids, chunks);
    const int32_t top_k = ints_[sample_ints::top_k];
    if (top_k > 0 && top_k < kept.count) kept = shortest(kInfinity, top_k);
    const float top_p = floats_[sample_floats::top_p];
    if (top_p < 1) kept = shortest(top_p * kept.mass, kept.count);
    const float min_p = floats_[sample_floats::min_p];
    if (min_p > 0) {
      const auto distance = static_cast<float>(-std::log(std::min(double{min_p}, 1.0)) * temperature);
      const int64_t count = count_within(buckets, std::max(0.0f, distance), score_of_ids, chunks);
      if (count < kept.count) kept = shortest(kInfinity, count);
    }
    const double u = philox_uniform(
        {static_cast<uint32_t>(ints_[sample_ints::seed_low]), static_cast<uint32_t>(ints_[sample_ints::seed_high])},
        {static_cast<uint32_t>(ints_[sample_ints::position]), static_cast<uint32_t>(ints_[sample_ints::choice])});
    return id_of(shortest(u * kept.mass, kept.count).last);
  }

  float logprob(float logit) const { return static_cast<float>(logit - log_sum_); }

  void write_top(bool valid) const {
    const int64_t num_top = a_.num_top;
    if (valid) {
      for_chunks([&](int64_t chunk) {
        const int64_t first = chunk * kChunk;
        find_top(logits_, first, std::min(vocab_, first + kChunk), work_.top + chunk * num_top, num_top);
      });
      std::partial_sort(work_.top, work_.top + num_top, work_.top + chunks_ * num_top);
    }
    for (int64_t i = 0; i < num_top; ++i) {
      const Key key = valid ? work_.top[i] : kNoKey;
      a_.top_ids.as<int32_t>()[row_ * num_top + i] = id_of(key);
      a_.top_logprobs.as<float>()[row_ * num_top + i] = key != kNoKey ? logprob(score_of(key))
                                                        : valid       ? -kInfinity
                                                                      : kNaN;
    }
  }

  const Sample& a_;
  Cpu& cpu_;
  const int64_t row_;
  const bool shared_, with_sum_;
  const int64_t vocab_, chunks_;  // ids that may be chosen
  const float *logits_, *floats_;
  const int32_t* ints_;
  const Workspace work_;
  int64_t num_edits_ = 0;
  float best_ = 0, max_logit_ = 0;
  double log_sum_ = 0;
};

void check_lengths(const Sample& a) {
  const auto check = [&](int column, const char* name, int limit, const char* limit_name) {
    for (int64_t row = 0; row < a.num_rows; ++row) {
      const int32_t value = a.ints.as<int32_t>()[row * sample_ints::count + column];
      if (value < 0 || value > limit)
        fail_arg("ints[" + std::to_string(row) + "] has " + name + " " + std::to_string(value) + ", expected 0 to " +
                 limit_name + " = " + std::to_string(limit));
    }
  };
  check(sample_ints::history_length, "history_length", a.max_history, "max_history");
  check(sample_ints::num_bias, "num_bias", a.max_bias, "max_bias");
}

}  // namespace

void sample(const Sample& args, Cpu& cpu) {
  Sample a = args;  // the sizes of absent tensors were not checked by anyone
  if (!a.history) a.max_history = 0;
  if (!a.bias_ids || !a.bias_values) a.max_bias = 0;
  if (!a.top_ids || !a.top_logprobs) a.num_top = 0;
  check_lengths(a);

  const int64_t bytes = Workspace(a, nullptr).bytes();
  if (a.vocab_size > kChunk && a.num_rows < 4 * cpu.num_threads()) {
    std::byte* memory = cpu.shared_scratch<std::byte>(bytes);
    for (int64_t row = 0; row < a.num_rows; ++row) Row(a, cpu, row, true, memory).run();
    return;
  }
  cpu.parallel_for(a.num_rows, rows_per_chunk(a.vocab_size), [&](int64_t begin, int64_t end, int thread) {
    std::byte* memory = cpu.scratch<std::byte>(thread, bytes);
    for (int64_t row = begin; row < end; ++row) Row(a, cpu, row, false, memory).run();
  });
}

}  // namespace openmoe::OPENMOE_ISA
