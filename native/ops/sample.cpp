// launch   many rows: one per chunk of parallel_for. Few rows of a long vocabulary: one after the other, each in chunks
//          of 8192 ids. The arithmetic is the same: partial results per chunk, combined in order
// traffic  vocab_size * 4 bytes per row for greedy, up to four times that for top-k, top-p and the draw, from cache
// why      nothing is sorted and the adjusted row is never stored: penalties and biases touch a few ids, which are
//          patched into blocks of 256 as they are read. See support/vocab_select.h
#include "ops/sample.h"

#include "device/cpu.h"
#include "support/error.h"
#include "support/simd.h"
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
  float max_logit, max_score;
  double sum_exp;  // of logits relative to max_logit
};

// Working memory of one row, cut from one block.
struct Workspace {
  explicit Workspace(const Sample& a, std::byte* memory) : at(memory) {
    const int64_t chunks = (a.vocab_size + kChunk - 1) / kChunk;
    mass = take<double>((chunks + 1) * kNumBuckets);
    count = take<int64_t>((chunks + 1) * kNumBuckets);
    members = take<Key>(a.vocab_size);
    touched = take<uint64_t>(int64_t{a.max_history} + a.max_bias);
    top = take<Key>(chunks * a.num_top);
    stats = take<ChunkStats>(chunks);
    edits = take<Edit>(int64_t{a.max_history} + a.max_bias);
  }
  template <class T>
  T* take(int64_t n) {
    T* p = reinterpret_cast<T*>(at);
    at += n * sizeof(T);
    return p;
  }
  std::byte* at;
  double* mass;
  int64_t* count;
  Key *members, *top;
  uint64_t* touched;
  ChunkStats* stats;
  Edit* edits;
};

int64_t workspace_bytes(const Sample& a) {
  return reinterpret_cast<intptr_t>(Workspace(a, nullptr).at);
}

// Uniform in [0, 1), 53 bits: Philox4x32-10 (Salmon et al., 2011) with the seed as its key and (position, choice) as its
// counter. No state is kept, so neither neighbours nor the past of a sequence change a draw.
double uniform(uint32_t seed_low, uint32_t seed_high, uint32_t choice, uint32_t position) {
  uint32_t c[4] = {position, choice, 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ seed_low, static_cast<uint32_t>(p1),
                              static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ seed_high, static_cast<uint32_t>(p0)};
    std::copy_n(next, 4, c);
    seed_low += 0x9E3779B9u;
    seed_high += 0xBB67AE85u;
  }
  return static_cast<double>((uint64_t{c[0]} << 32 | c[1]) >> 11) * 0x1p-53;
}

class Row {
 public:
  // `shared`: the chunks of this row may go to all threads.
  Row(const Sample& a, Cpu& cpu, int64_t row, bool shared, std::byte* memory)
      : a_(a),
        cpu_(cpu),
        row_(row),
        shared_(shared),
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
    a_.logprob.as<float>()[row_] = token < 0 ? kNaN : logprob(logits_[token]);
    if (a_.num_top > 0 && a_.top_ids && a_.top_logprobs) write_top(valid);
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
    const Edit* edit = std::partition_point(static_cast<const Edit*>(work_.edits), end,
                                            [&](const Edit& e) { return e.id < first; });
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

  // The largest score and the log-sum-exp of the logits. False for a row that nothing can be taken from.
  bool measure() {
    for_chunks([&](int64_t chunk) { work_.stats[chunk] = chunk_stats(chunk); });
    best_ = max_logit_ = -kInfinity;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      best_ = std::max(best_, work_.stats[chunk].max_score);
      max_logit_ = std::max(max_logit_, work_.stats[chunk].max_logit);
    }
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk)
      sum += work_.stats[chunk].sum_exp * std::exp(double{work_.stats[chunk].max_logit} - max_logit_);
    log_sum_ = max_logit_ + std::log(sum);
    return best_ > -kInfinity && std::isfinite(log_sum_);
  }

  ChunkStats chunk_stats(int64_t chunk) const {
    const int64_t begin = chunk * kChunk, end = std::min(vocab_, begin + kChunk);
    Vec max_logit = set1(-kInfinity), max_score = max_logit;
    float buffer[kBlock];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      const float* s = scores(first, n, buffer);
      // max(x, so far) passes over NaN; the sum below finds it.
      max_logit = max_of(logits_ + first, n, max_logit);
      max_score = s == logits_ + first ? max(max_of(s, n, set1(-kInfinity)), max_score) : max_of(s, n, max_score);
    }
    ChunkStats stats{reduce_max(max_logit), reduce_max(max_score), 0};
    const Weight weight(stats.max_logit > -kInfinity ? stats.max_logit : 0.0f, 1.0f);
    for (int64_t first = begin; first < end; first += kBlock) {
      Vec sum = zero();
      for_vectors(std::min(kBlock, end - first), [&](int64_t i, auto lanes) {
        sum = add(sum, keep(weight(load(logits_ + first + i, lanes)), lanes));
      });
      stats.sum_exp += reduce_add(sum);
    }
    return stats;
  }
