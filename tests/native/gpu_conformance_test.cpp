// Holds every wrapper of gpu/gpu.h to what the PTX manual says, on the emulator and, built by nvcc as gpu_conformance,
// on a GPU: one line per wrapper, `ok` or the first difference. With arguments, only the cases with one of them in
// their name. Exit code 0: all agree; 1: some do not; 77: no device, nothing was checked.
#include <algorithm>
#include <cstdio>

#include "conformance/case.h"
#include "conformance/copies.h"
#include "conformance/lanes.h"
#include "conformance/tensor_core.h"
#include "support/error.h"

namespace openmoe::gpu::conformance {
namespace {

constexpr int kNothingChecked = 77;

std::string in_hex(uint32_t bits) {
  char text[48];
  std::snprintf(text, sizeof text, "%08x (%g)", bits, static_cast<double>(number(bits)));
  return text;
}

// What is wrong, or empty.
std::string difference(const Case& c, const Words& got, const Words& want) {
  if (got.size() != want.size()) return "wrong number of words";
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double g = number(got[i]), w = number(want[i]);
    error += (g - w) * (g - w);
    norm += w * w;
    if (c.tolerance > 0 ? std::isfinite(g) : got[i] == want[i]) continue;
    return "word " + std::to_string(i) + " is " + in_hex(got[i]) + ", expected " + in_hex(want[i]);
  }
  const double relative = std::sqrt(error / norm);
  if (c.tolerance == 0 || relative <= c.tolerance) return "";
  return "relative error " + std::to_string(relative) + ", allowed " + std::to_string(c.tolerance);
}

bool run(const Case& c, BareDevice& device) {
  std::string wrong;
  try {
    if (device.stream().arch() < c.arch) {
      std::printf("skip   %s: needs sm_%d\n", c.name.c_str(), c.arch);
      return true;
    }
    wrong = difference(c, c.run(device), c.expected());
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  if (wrong.empty())
    std::printf("ok     %s\n", c.name.c_str());
  else
    std::printf("WRONG  %s: %s\n", c.name.c_str(), wrong.c_str());
  std::fflush(stdout);
  return wrong.empty();
}

std::vector<Case> cases_named(const std::vector<std::string>& parts) {
  std::vector<Case> cases = tensor_core_cases();
  for (auto more : {copy_cases(), lane_cases()}) cases.insert(cases.end(), more.begin(), more.end());
  const auto unwanted = [&](const Case& c) {
    const auto named = [&](const std::string& part) { return c.name.find(part) != std::string::npos; };
    return !parts.empty() && std::none_of(parts.begin(), parts.end(), named);
  };
  std::erase_if(cases, unwanted);
  return cases;
}

int main(const std::vector<std::string>& parts) {
  if (const std::string why = BareDevice::missing(); !why.empty()) {
    std::printf("no device: %s\n", why.c_str());
    return kNothingChecked;
  }
  const std::vector<Case> cases = cases_named(parts);
  if (cases.empty()) {
    std::printf("no case has such a name\n");
    return 1;
  }
  int wrong = 0;
  for (const BareOptions& options : {BareOptions{90, 1}, {90, 2}, {90, 3}, {90, 4}, {80, 5}}) {
    BareDevice device(options);
    std::printf("%s\n", device.name().c_str());
    for (const Case& c : cases) wrong += run(c, device) ? 0 : 1;
    if (!BareDevice::kEmulated) break;  // a real device has neither seeds nor a second architecture
  }
  std::printf("%s\n", wrong == 0 ? "ok" : "failed");
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace openmoe::gpu::conformance

int main(int argc, char** argv) { return openmoe::gpu::conformance::main({argv + 1, argv + argc}); }
