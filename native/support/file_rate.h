// How fast a file can be read into this process: what loading weights is held against. Nothing else uses this.
#pragma once

#include <string>

namespace openmoe {

enum class ReadInto {
  cache,  // one block per thread, again and again: it asks no memory to hold the file
  fresh,  // memory of the CPU backend, allocated for it and released after the clock has stopped
};

// Seconds to read a file once, a large page's worth at a time, on `num_threads` threads. Throws FILE_READ,
// FILE_TRUNCATED, OUT_OF_MEMORY.
double read_file_seconds(const std::string& path, int num_threads, ReadInto into);

}  // namespace openmoe
