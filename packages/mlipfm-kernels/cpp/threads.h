// A few threads that wait for work: steps of dynamics are too short to start threads for each.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mlipfm {

class Threads {
 public:
  explicit Threads(int count) : count_(count < 1 ? 1 : count) {}
  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      round_++;
    }
    wake_.notify_all();
    for (auto &worker : workers_) worker.join();
  }
  int count() const { return count_; }

  // Call work(0), ..., work(count - 1), each on its own thread, and return when all have.
  void run(const std::function<void(int)> &work) {
    if (count_ == 1) return work(0);
    if (workers_.empty())
      for (int t = 1; t < count_; t++) workers_.emplace_back([this, t] { loop(t); });
    work_ = &work;
    left_.store(count_ - 1, std::memory_order_release);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      round_++;
    }
    wake_.notify_all();
    work(0);
    for (int spin = 0; left_.load(std::memory_order_acquire) > 0; spin++)
      if (spin > 2000) std::this_thread::yield();
  }

 private:
  void loop(int t) {
    long seen = 0;
    for (;;) {
      for (int spin = 0; spin < 20000 && round_.load(std::memory_order_acquire) == seen; spin++) {}
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_.load() != seen; });
      }
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      (*work_)(t);
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  int count_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<long> round_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int)> *work_ = nullptr;
};

}  // namespace mlipfm
