// Selection over a row of scores as long as a vocabulary, without sorting it. Candidates are ordered best first: score
// falling, then id rising. Every question the sampler asks (the k best, the smallest set holding p of the mass, the
// candidate on which a random number falls) is "the shortest prefix of that order with this count or this mass".
//
// Scores are put into buckets by their distance from the best one, counting candidates and adding up their weights. A
// prefix ends inside one bucket, and only the members of that one are put in order. So the cost is a pass over the row
// per question, whatever the distribution. Chunks of fixed size are added in order: threads do not change a bit.
#pragma once

#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr int64_t kChunk = 8192;  // ids one thread takes at a time: 32 KiB of scores
inline constexpr int64_t kBlock = 256;   // ids between two looks at the adjusted scores; divides kChunk

// Distances below 2^-8 and from 2^10 on share a bucket each; between, 64 buckets per power of two, so that resolution
// follows the temperature by itself. One more holds what is no candidate.
inline constexpr int kMantissaBits = 6;
inline constexpr int kNumBuckets = (10 + 8) << kMantissaBits;
inline constexpr uint16_t kNoCandidate = kNumBuckets;
inline int bucket_of(float distance) {
  const int bits = static_cast<int>(std::bit_cast<uint32_t>(distance) >> (23 - kMantissaBits));
  constexpr int kFirst = (127 - 8) << kMantissaBits;
  return std::clamp(bits - kFirst, 0, kNumBuckets - 1);
}

// A score and its id as one number; ascending order is best first.
using Key = uint64_t;
inline constexpr Key kNoKey = ~Key{0};  // behind every score; its id reads -1
inline Key key_of(float score, int64_t id) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 ties with 0
  const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
  return Key{~rising} << 32 | static_cast<uint32_t>(id);
}
inline int32_t id_of(Key key) { return static_cast<int32_t>(key); }
inline float score_of(Key key) {
  const uint32_t rising = ~static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>(rising >> 31 ? rising & 0x7fffffffu : ~rising);
}

// Loads with -infinity past the end: the neutral score.
inline Vec load_scores(const float* p, Full) { return load(p); }
inline Vec load_scores(const float* p, Tail t) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -kInfinity);
  std::copy_n(p, t.n, lanes);
  return load(lanes);
}

// The largest of n scores, by lane. Passes over NaN.
inline Vec max_of(const float* scores, int64_t n) {
  Vec largest = set1(-kInfinity);
  for_vectors(n, [&](int64_t i, auto lanes) { largest = max(load_scores(scores + i, lanes), largest); });
  return largest;
}

// Whether all of n scores are below `limit`. NaN is below nothing.
inline bool all_below(const float* scores, int64_t n, float limit) {
  bool below = true;
  for_vectors(n, [&](int64_t i, auto lanes) { below &= all_below(load_scores(scores + i, lanes), set1(limit)); });
  return below;
}

// NaN in some lane when one of n scores is NaN or +infinity, else zero.
inline Vec poison_of(const float* scores, int64_t n) {
  Vec poison = zero();
  for_vectors(n, [&](int64_t i, auto lanes) {
    const Vec score = load_scores(scores + i, lanes);
    poison = fma(max(set1(std::numeric_limits<float>::lowest()), score), zero(), poison);  // -infinity is no poison
  });
  return poison;
}

// The `count` best of ids [first, end), best first; filled up with kNoKey.
inline void find_top(const float* scores, int64_t first, int64_t end, Key* top, int64_t count) {
  Key* last = top + count - 1;
  std::fill_n(top, count, kNoKey);
  for (; first < end; first += kBlock) {
    const int64_t n = std::min(kBlock, end - first);
    if (key_of(reduce_max(max_of(scores + first, n)), first) > *last) continue;
    for (int64_t id = first; id < first + n; ++id) {
      const Key key = key_of(scores[id], id);
      if (key > *last) continue;
      Key* at = std::upper_bound(top, last, key);
      std::copy_backward(at, last, last + 1);
      *at = key;
    }
  }
}

// exp((score - best) / temperature), and exactly zero from e^-87 down, so that a banned id is never a candidate.
class Weight {
 public:
  // The factor is neither zero nor infinite, so that no temperature makes NaN of the best score or of a banned one.
  Weight(float best, float temperature) : best_(set1(best)) {
    using Limits = std::numeric_limits<float>;
    scale_ = set1(std::clamp(1.0f / temperature, Limits::min(), Limits::max()));
  }
  Vec operator()(Vec score) const { return max(zero(), sub(exp(mul(sub(score, best_), scale_)), exp(set1(-87.0f)))); }

 private:
  Vec best_, scale_;
};

// Where a prefix ends: its last candidate, and what lies in it.
struct Prefix {
  Key last = 0;
  int64_t count = 0;
  double mass = 0;
};

// The buckets of one row. Templates below take `scores`, which gives the row's adjusted scores as scores(first, n,
// buffer), n at most kBlock, and `for_chunks`, which runs body(chunk) for every chunk on as many threads as it likes.
struct Buckets {
  int64_t vocab;     // ids that may be chosen
  float best;        // the largest score, finite
  Weight weight;     // relative to it
  double* mass;      // [num_chunks + 1, kNumBuckets + 1]; the last row is the sum
  int32_t* count;    // the same
  uint16_t* bucket;  // [vocab]
  Key* members;      // [vocab]
  int64_t num_chunks() const { return (vocab + kChunk - 1) / kChunk; }
  double* mass_of(int64_t chunk) const { return mass + chunk * (kNumBuckets + 1); }
  int32_t* count_of(int64_t chunk) const { return count + chunk * (kNumBuckets + 1); }
  double* total_mass() const { return mass_of(num_chunks()); }
  int32_t* total_count() const { return count_of(num_chunks()); }
};

template <class Scores>
inline void fill_chunk(const Buckets& b, int64_t chunk, const Scores& scores) {
  double* mass = b.mass_of(chunk);
  int32_t* count = b.count_of(chunk);
  std::fill_n(mass, kNumBuckets + 1, 0.0);
  std::fill_n(count, kNumBuckets + 1, 0);
  const Vec best = set1(b.best);
  const int64_t end = std::min(b.vocab, (chunk + 1) * kChunk);
  float buffer[kBlock], distance[kBlock], weight[kBlock];
  for (int64_t first = chunk * kChunk; first < end; first += kBlock) {
    const int64_t n = std::min(kBlock, end - first);
    const float* s = scores(first, n, buffer);
    for_vectors(n, [&](int64_t i, auto lanes) {
      const Vec score = load(s + i, lanes);
      store(distance + i, sub(best, score), lanes);
      store(weight + i, b.weight(score), lanes);
    });
    uint16_t* bucket = b.bucket + first;
    for (int64_t i = 0; i < n; ++i)  // by itself, because compilers can make vectors of it
      bucket[i] = weight[i] > 0 ? static_cast<uint16_t>(bucket_of(distance[i])) : kNoCandidate;
    for (int64_t i = 0; i < n; ++i) {
      mass[bucket[i]] += weight[i];
      ++count[bucket[i]];
    }
  }
}

// Fills all buckets. Returns the prefix of all candidates.
template <class Scores, class ForChunks>
inline Prefix fill_buckets(const Buckets& b, const Scores& scores, const ForChunks& for_chunks) {
  for_chunks([&](int64_t chunk) { fill_chunk(b, chunk, scores); });
  std::copy_n(b.mass, kNumBuckets, b.total_mass());
  std::copy_n(b.count, kNumBuckets, b.total_count());
  for (int64_t chunk = 1; chunk < b.num_chunks(); ++chunk)
    for (int i = 0; i < kNumBuckets; ++i) {
      b.total_mass()[i] += b.mass_of(chunk)[i];
      b.total_count()[i] += b.count_of(chunk)[i];
    }
  Prefix all;
  for (int i = 0; i < kNumBuckets; ++i) all.mass += b.total_mass()[i], all.count += b.total_count()[i];
  return all;
}

// The candidates of one bucket, in order of id. Returns how many.
template <class Scores, class ForChunks>
inline int64_t collect(const Buckets& b, int bucket, const Scores& scores, const ForChunks& for_chunks) {
  for_chunks([&](int64_t chunk) {
    if (b.count_of(chunk)[bucket] == 0) return;
    Key* to = b.members;
    for (int64_t c = 0; c < chunk; ++c) to += b.count_of(c)[bucket];
    const int64_t end = std::min(b.vocab, (chunk + 1) * kChunk);
    float buffer[kBlock];
    for (int64_t first = chunk * kChunk; first < end; first += kBlock) {
      const int64_t n = std::min(kBlock, end - first);
      const uint16_t* buckets = b.bucket + first;
      if (std::find(buckets, buckets + n, bucket) == buckets + n) continue;
      const float* s = scores(first, n, buffer);
      for (int64_t i = 0; i < n; ++i)
        if (buckets[i] == bucket) *to++ = key_of(s[i], first + i);
    }
  });
  return b.total_count()[bucket];
}

// The sum of the weights of some candidates, in the order given.
inline double mass_of(const Buckets& b, const Key* keys, int64_t count) {
  double sum = 0;
  for_vectors(count, [&](int64_t i, auto lanes) {
    float weight[kLanes];
    const int64_t n = std::min<int64_t>(kLanes, count - i);
    for (int64_t j = 0; j < n; ++j) weight[j] = score_of(keys[i + j]);
    store(weight, b.weight(load(weight, lanes)), lanes);
    for (int64_t j = 0; j < n; ++j) sum += weight[j];
  });
  return sum;
}

// The shortest prefix that holds `mass`, or `count` candidates: 1 to as many as there are.
template <class Scores, class ForChunks>
inline Prefix find_prefix(const Buckets& b, double mass, int64_t count, const Scores& scores,
                          const ForChunks& for_chunks) {
  const auto reached = [&](const Prefix& p) { return p.count > 0 && (p.mass >= mass || p.count >= count); };
  Prefix prefix;
  int bucket = 0;
  for (;; ++bucket) {
    const Prefix with{0, prefix.count + b.total_count()[bucket], prefix.mass + b.total_mass()[bucket]};
    if (reached(with)) break;
    prefix = with;
  }
  // Halve the members until few are left, keeping those in which the prefix ends.
  Key *first = b.members, *last = first + collect(b, bucket, scores, for_chunks);
  while (last - first > 32) {
    Key* middle = first + (last - first) / 2;
    std::nth_element(first, middle, last);
    const Prefix with{0, prefix.count + (middle - first), prefix.mass + mass_of(b, first, middle - first)};
    if (reached(with)) {
      last = middle;
    } else {
      prefix = with;
      first = middle;
    }
  }
  std::sort(first, last);
  for (const Key* key = first; key < last; ++key) {
    prefix = {*key, prefix.count + 1, prefix.mass + mass_of(b, key, 1)};
    if (reached(prefix)) break;
  }
  return prefix;
}

// Candidates no further than `distance` from the best score.
template <class Scores, class ForChunks>
inline int64_t count_within(const Buckets& b, float distance, const Scores& scores, const ForChunks& for_chunks) {
  const int bucket = bucket_of(distance);
  int64_t count = 0;
  for (int i = 0; i < bucket; ++i) count += b.total_count()[i];
  const int64_t members = collect(b, bucket, scores, for_chunks);
  return count +
         std::count_if(b.members, b.members + members, [&](Key key) { return b.best - score_of(key) <= distance; });
}

}  // namespace openmoe::OPENMOE_ISA
