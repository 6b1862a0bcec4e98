// Stresses the parts of the core that have threads, for ASan + UBSan and for TSan (npm run sanitize): the pool, and the
// executor over a CPU device with programs built by hand. `--plant=race` and `--plant=overflow` misbehave on purpose,
// to prove that a sanitizer is looking.
#include "device/thread_pool.h"

#include <cstdio>
#include <cstring>
#include <future>
#include <stdexcept>
#include <string>
#include <string_view>

#include "device/device.h"
#include "device/executor.h"
#include "program/program.h"
#include "support/error.h"

namespace openmoe {
namespace {

std::atomic<int> failures{0};

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAIL %s\n", what.c_str());
}

template <class F>
void run(ThreadPool& pool, int64_t count, int64_t grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  pool.run(
      count, grain, nullptr,
      [](void* f, int64_t begin, int64_t end, int thread) { (*static_cast<Body*>(f))(begin, end, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// ---- the pool

void every_index_once(int num_threads) {
  ThreadPool pool(num_threads);
  expect(pool.num_threads() == num_threads, "num_threads");
  for (int64_t count : {0, 1, 2, 7, 64, 1000})
    for (int64_t grain : {-1, 0, 1, 3, 64, 999, 1000, 5000}) {
      std::vector<int> seen(count);  // not atomic: a chunk owns its outputs
      std::vector<std::thread::id> runner(num_threads);
      run(pool, count, grain, [&](int64_t begin, int64_t end, int thread) {
        expect(thread >= 0 && thread < num_threads, "thread number");
        runner[thread] = std::this_thread::get_id();  // nor is what belongs to a thread
        for (int64_t i = begin; i < end; ++i) ++seen[i];
      });
      for (int n : seen) expect(n == 1, "every index is visited once");
    }
}

// Each thread that gets a chunk has prepared for this very job before, once.
void prepared_once_a_job(int num_threads, int jobs) {
  ThreadPool pool(num_threads);
  struct Job {
    int number;
    std::vector<int> prepared;
  } job{0, std::vector<int>(num_threads)};
  for (job.number = 1; job.number <= jobs; ++job.number)
    pool.run(
        1 + job.number % 9, 1,
        [](void* f, int thread) {
          auto& j = *static_cast<Job*>(f);
          expect(j.prepared[thread] < j.number, "prepare is called once a job");
          j.prepared[thread] = j.number;
        },
        [](void* f, int64_t, int64_t, int thread) {
          auto& j = *static_cast<Job*>(f);
          expect(j.prepared[thread] == j.number, "prepare comes before the first chunk");
        },
        &job);
}

// Jobs so small that workers wake up late, or into the next job.
void many_tiny_jobs(int num_threads, int jobs) {
  ThreadPool pool(num_threads);
  int64_t sum = 0;
  for (int job = 0; job < jobs; ++job) {
    const int64_t count = 2 + job % 5;
    int64_t parts[8] = {};
    run(pool, count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) parts[i] = job + i;
    });
    for (int64_t i = 0; i < count; ++i) sum += parts[i] - job - i;
    if (job % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // let them park
  }
  expect(sum == 0, "a tiny job is complete when run() returns");
}

void exceptions_come_out(int num_threads) {
  ThreadPool pool(num_threads);
  for (int round = 0; round < 200; ++round) {
    std::string caught;
    try {
      run(pool, 50, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
          if (i % 10 == round % 10) throw std::runtime_error("body " + std::to_string(i % 10));
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    expect(caught == "body " + std::to_string(round % 10), "an exception of a body is rethrown");
    int done[50] = {};
    run(pool, 50, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) done[i] = 1;
    });
    for (int d : done) expect(d == 1, "the pool works after an exception");
  }
}

void destroyed_while_idle(int num_threads) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(num_threads);
    if (round % 3 == 0) run(pool, 8, 1, [](int64_t, int64_t, int) {});
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// ---- device and executor

constexpr int kTokens = 64, kWidth = 1024;

double index_of(std::string_view name) {
  const auto ops = all_ops();
  for (size_t i = 0; i < ops.size(); ++i)
    if (ops[i].name == name) return static_cast<double>(i);
  throw std::logic_error("no such op");
}

// y = x + x, `length` times over; every element of the result is 2^length times that of x.
struct Doubling {
  Doubling(const Device& device, std::shared_ptr<Buffer> x, int length) {
    constexpr size_t kBytes = size_t{kTokens} * kWidth * sizeof(float);
    std::vector<ProgramTensor> tensors{{std::move(x), 0, kBytes, DType::f32, false}};
    std::vector<double> code;
    for (int i = 0; i < length; ++i) {
      tensors.push_back({nullptr, 0, kBytes, DType::f32, i + 1 == length});
      const double from = i, to = i + 1;
      code.insert(code.end(), {index_of("add"), 0, from, from, to, kTokens, kWidth});
    }
    program = make_program(device, std::move(tensors), code, {"test.add"});
  }
  float first(Device& device) const {
    float value = 0;
    device.read_arena(program->tensors.back().offset, &value, sizeof value);
    return value;
  }
  std::unique_ptr<Program> program;
};

std::shared_ptr<Buffer> ones(Device& device) {
  const std::vector<float> data(size_t{kTokens} * kWidth, 1.0f);
  auto buffer = device.allocate(data.size() * sizeof(float));
  device.write(*buffer, 0, data.data(), data.size() * sizeof(float));
  return buffer;
}

std::string code_of(std::exception_ptr error) {
  if (!error) return "";
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e.code;
  } catch (...) {
    return "?";
  }
}

std::unique_ptr<Device> cpu(int num_threads) { return make_cpu_device({num_threads, ""}); }

void programs_run(int num_threads) {
  Executor executor(cpu(num_threads));
  auto device = executor.device();
  auto program = std::make_shared<Doubling>(*device, ones(*device), 5);
  std::vector<std::future<float>> results;
  for (int i = 0; i < 50; ++i) {
    auto promise = std::make_shared<std::promise<float>>();
    auto value = std::make_shared<float>(0.0f);
    results.push_back(promise->get_future());
    executor.submit({[=](Device& d, const std::atomic<bool>& stop) {
                       d.run(*program->program, {&stop});
                       *value = program->first(d);
                     },
                     [=](std::exception_ptr error) { promise->set_value(error ? -1.0f : *value); }});
  }
  for (auto& result : results) expect(result.get() == 32.0f, "a program computes 2^5");
}

// Jobs from several threads, a close in their midst: each job reports exactly once, or was never taken.
void close_during_a_run(int num_threads, int microseconds) {
  std::atomic<int> taken{0}, finished{0}, stopped{0}, closed{0};
  {
    Executor executor(cpu(num_threads));
    auto device = executor.device();
    auto program = std::make_shared<Doubling>(*device, ones(*device), 100);
    device.reset();
    const auto submit = [&] {
      for (int i = 0; i < 20; ++i)
        taken += executor.submit({[=](Device& d, const std::atomic<bool>& stop) { d.run(*program->program, {&stop}); },
                                  [&](std::exception_ptr error) {
                                    const std::string code = code_of(error);
                                    expect(code.empty() || code == "DISPOSED", "a stopped job reports DISPOSED");
                                    ++(error ? stopped : finished);
                                  }});
    };
    std::thread other(submit);
    submit();
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    expect(executor.close([&] { ++closed; }), "the first close() closes");
    expect(!executor.close([&] { closed += 100; }), "a second close() changes nothing");
    expect(!executor.submit({[](Device&, const std::atomic<bool>&) {}, [](std::exception_ptr) {}}),
           "a closed executor takes no job");
    other.join();
    executor.join();
    std::string code;
    try {
      executor.device();
    } catch (const Error& error) {
      code = error.code;
    }
    expect(code == "DISPOSED", "an ended executor has no device");
  }
  expect(finished + stopped == taken, "every job taken reports once");
  expect(closed == 1, "close() reports once");
}

void memory_outlives_the_executor() {
  std::shared_ptr<Buffer> buffer;
  {
    Executor executor(cpu(2));
    buffer = ones(*executor.device());
  }
  expect(static_cast<const float*>(buffer->data())[kWidth] == 1.0f, "a buffer outlives its device");
}

void malformed_programs_are_refused() {
  const auto device = cpu(1);
  const auto x = ones(*device);
  const double add = index_of("add");
  const size_t bytes = x->bytes();
  const std::vector<std::vector<double>> wrong = {
      {add},
      {add, 0, 0, 0},
      {-1, 0, 0, 0, 1, 1, 1},
      {1e300, 0, 0, 0, 1, 1, 1},
      {add, 7, 0, 0, 1, 1, 1},
      {add, 0, 0, 2, 1, 1, 1},
      {add, 0, 0, -1, 1, 1, 1},
      {add, 0, 0, 0, 1, -1, 1},
      {add, 0, 0, 0, 1, 2147483647, 2147483647},
      {add, 0, 0, 0, 1, 0.5, 1},
      {add, 0, 0, 0, 1, kTokens + 1, kWidth},
  };
  for (const auto& code : wrong) {
    std::string refused;
    try {
      make_program(*device, {{x, 0, bytes, DType::f32, false}, {nullptr, 0, bytes, DType::f32, true}}, code, {"test"});
    } catch (const Error& error) {
      refused = error.code;
    }
    expect(refused == "INVALID_ARG", "malformed program " + std::to_string(&code - wrong.data()) + " is refused");
  }
}

// ---- planted bugs

// Two threads of the pool write one plain integer; relaxed atomics bring them together without ordering them.
void plant_race() {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  int shared = 0;
  run(pool, 2, 1, [&](int64_t, int64_t, int) {
    arrived.fetch_add(1, std::memory_order_relaxed);
    while (arrived.load(std::memory_order_relaxed) < 2) std::this_thread::yield();
    ++shared;
  });
  std::printf("planted a race: %d\n", shared);
}

void plant_overflow() {
  ThreadPool pool(2);
  const std::unique_ptr<float[]> data(new float[100]);
  volatile float* out = data.get();
  run(pool, 101, 10, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) out[i] = 1.0f;
  });
  std::printf("planted an overflow\n");
}

int main(int argc, char** argv) {
  const std::string_view plant = argc > 1 ? argv[1] : "";
  if (plant == "--plant=race") return plant_race(), 0;
  if (plant == "--plant=overflow") return plant_overflow(), 0;
  for (int threads = 1; threads <= 8; ++threads) {
    every_index_once(threads);
    prepared_once_a_job(threads, threads <= 2 ? 20000 : 2000);
    many_tiny_jobs(threads, threads <= 2 ? 20000 : 2000);  // more threads than cores: switches cost milliseconds
    exceptions_come_out(threads);
    destroyed_while_idle(threads);
  }
  for (int threads : {1, 2, 4}) {
    programs_run(threads);
    for (int microseconds : {0, 50, 500, 5000}) close_during_a_run(threads, microseconds);
  }
  memory_outlives_the_executor();
  malformed_programs_are_refused();
  std::printf("%s\n", failures == 0 ? "ok" : "failed");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace openmoe

int main(int argc, char** argv) { return openmoe::main(argc, argv); }
