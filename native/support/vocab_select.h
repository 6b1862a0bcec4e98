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

// Distances below 2^-10 and from 2^13 on share a bucket each; between, 32 buckets per power of two. Infinity is a
// distance too: that of a banned id.
inline constexpr int kMantissaBits = 5;
inline constexpr int kNumBuckets = (13 + 10) << kMantissaBits;
inline int bucket_of(float distance) {
  const int bits = static_cast<int>(std::bit_cast<uint32_t>(distance) >> (23 - kMantissaBits));
  constexpr int kFirst = (127 - 10) << kMantissaBits;
  return std::clamp(bits - kFirst, 0, kNumBuckets - 1);
}

// A score and its id as one number; ascending order is best first.
using Key = uint64_t;
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

// Loads with -infinity past the end: the neutral score.
inline Vec load_scores(const float* p, Full) { return load(p); }
inline Vec load_scores(const float* p, Tail t) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -kInfinity);
  std::copy_n(p, t.n, lanes);
  return load(lanes);
}

// Where a prefix ends: its last candidate, and what lies in it.
struct Prefix {
  Key last = 0;
  int64_t count = 0;
  double mass = 0;
};

// The buckets of one row. `Scores` gives the row's adjusted scores: scores(first, n, buffer) returns n of them (n at
// most kBlock). `ForChunks` runs body(chunk) for every chunk, on as many threads as it likes.
struct Buckets {
  int64_t vocab;   // ids that may be chosen
  float best;      // the largest score, finite
  Weight weight;   // relative to it
  double* mass;    // [num_chunks + 1, kNumBuckets]; the last row is the sum
  int64_t* count;  // the same
  Key* members;    // [vocab]
  int64_t num_chunks() const { return (vocab + kChunk - 1) / kChunk; }
  double* total_mass() const { return mass + num_chunks() * kNumBuckets; }
  int64_t* total_count() const { return count + num_chunks() * kNumBuckets; }
};

// f(first id, number, scores, distances, weights) for each block of a chunk.
template <class Scores, class F>
inline void for_blocks(const Buckets& b, int64_t chunk, const Scores& scores, F&& f) {
  const Vec best = set1(b.best);
  const int64_t end = std::min(b.vocab, (chunk + 1) * kChunk);
  float buffer[kBlock], distance[kBlock], weights[kBlock];
  for (int64_t first = chunk * kChunk; first < end; first += kBlock) {
    const int64_t n = std::min(kBlock, end - first);
    const float* s = scores(first, n, buffer);
    for_vectors(n, [&](int64_t i, auto lanes) {
      const Vec score = load(s + i, lanes);
      store(distance + i, sub(best, score), lanes);
      store(weights + i, b.weight(score), lanes);
    });
    f(first, n, s, distance, weights);
  }
}

template <class Scores, class ForChunks>
inline Prefix fill_buckets(const Buckets& b, const Scores& scores, const ForChunks& for_chunks) {
  for_chunks([&](int64_t chunk) {
    double* mass = b.mass + chunk * kNumBuckets;
    int64_t* count = b.count + chunk * kNumBuckets;
    std::fill_n(mass, kNumBuckets, 0.0);
    std::fill_n(count, kNumBuckets, 0);
    for_blocks(b, chunk, scores, [&](int64_t, int64_t n, const float*, const float* distance, const float* weights) {
      for (int64_t i = 0; i < n; ++i) {
        const int bucket = bucket_of(distance[i]);
        mass[bucket] += weights[i];
        count[bucket] += weights[i] > 0;
      }
    });
  });
  std::copy_n(b.mass, kNumBuckets, b.total_mass());
  std::copy_n(b.count, kNumBuckets, b.total_count());
  for (int64_t chunk = 1; chunk < b.num_chunks(); ++chunk)
    for (int i = 0; i < kNumBuckets; ++i) {
      b.total_mass()[i] += b.mass[chunk * kNumBuckets + i];
      b.total_count()[i] += b.count[chunk * kNumBuckets + i];
    }
  Prefix all;
  for (int i = 0; i < kNumBuckets; ++i) all.mass += b.total_mass()[i], all.count += b.total_count()[i];
  return all;
}

// The candidates of one bucket, in order of id. Returns how many.
template <class Scores, class ForChunks>
inline int64_t collect(const Buckets& b, int bucket, const Scores& scores, const ForChunks& for_chunks) {
  for_chunks([&](int64_t chunk) {
    if (b.count[chunk * kNumBuckets + bucket] == 0) return;
    Key* to = b.members;
    for (int64_t c = 0; c < chunk; ++c) to += b.count[c * kNumBuckets + bucket];
    for_blocks(b, chunk, scores, [&](int64_t first, int64_t n, const float* s, const float* distance, const float* w) {
      for (int64_t i = 0; i < n; ++i)
        if (bucket_of(distance[i]) == bucket && w[i] > 0) *to++ = key_of(s[i], first + i);
    });
  });
  return b.total_count()[bucket];
}

inline float weight_of(const Buckets& b, Key key) {
  float weight[kLanes];
  store(weight, b.weight(set1(score_of(key))));
  return weight[0];
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
    Prefix with = prefix;
    for (const Key* key = first; key < middle; ++key) with.mass += weight_of(b, *key), ++with.count;
    if (reached(with)) {
      last = middle;
    } else {
      prefix = with;
      first = middle;
    }
  }
  std::sort(first, last);
  for (const Key* key = first; key < last; ++key) {
    prefix = {*key, prefix.count + 1, prefix.mass + weight_of(b, *key)};
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
