// Expectations of the native tests.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

namespace openmoe::test {

inline std::atomic<int> failures{0};

inline void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAIL %s\n", what.c_str());
}

inline int report() {
  std::printf("%s\n", failures == 0 ? "ok" : "failed");
  return failures == 0 ? 0 : 1;
}

}  // namespace openmoe::test
