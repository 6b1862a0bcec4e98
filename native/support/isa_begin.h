// Every standard header a kernel may use, included before the region of an instruction set begins (CMakeLists.txt), so
// that the standard library's templates are compiled for the baseline. A kernel that needs another header adds it here.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/cpu.h"
#include "matmul/panel.h"
#include "program/op.h"
#include "support/bf16.h"
#include "support/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
