// The one native thread of a device: jobs run in the order they were submitted, and each reports once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "device/device.h"

namespace openmoe {

class Executor {
 public:
  struct Job {
    std::function<void(Device&, const std::atomic<bool>& stop)> work;
    // Called on the executor's thread, also for a job that never ran because the executor was closed.
    std::function<void(std::exception_ptr)> done;
  };

  explicit Executor(std::unique_ptr<Device> device);
  ~Executor();

  // Throws DISPOSED once the executor has ended: it frees the device, not the garbage collector.
  std::shared_ptr<Device> device();
  // False when the executor is closed: the job was dropped and `done` will not be called.
  bool submit(Job job);
  // Stops the run in progress at its next record, fails what waits with DISPOSED, then calls `closed` as its last act.
  // Does not wait. A second call changes nothing and returns false.
  bool close(std::function<void()> closed);
  // Waits for the thread to end. Only after close().
  void join();

 private:
  void loop();

  std::mutex mutex_;
  std::shared_ptr<Device> device_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::atomic<size_t> num_jobs_{0};  // of jobs_, to be looked at without the lock
  std::function<void()> closed_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace openmoe
