// Expectations of the native tests.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace openmoe::test {

inline std::atomic<int> failures{0};
inline bool stop_at_first = false;

inline void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAIL %s\n", what.c_str());
  if (stop_at_first) std::exit(1);
}

inline int report() {
  std::printf("%s\n", failures == 0 ? "ok" : "failed");
  return failures == 0 ? 0 : 1;
}

}  // namespace openmoe::test
