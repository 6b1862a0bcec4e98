#include "binding/roofline_binding.h"

#include <exception>
#include <string>

#include "binding/handle.h"
#include "support/file_rate.h"
#include "support/roofline.h"

namespace openmoe {

template <>
struct HandleType<RoofMeter> {
  static constexpr napi_type_tag tag = {0x6f70656e6d6f6504, 0x6d65746572};
  static constexpr const char* name = "roof meter";
};

namespace {

constexpr const char* kKinds[] = {"read", "copy", "f32", "bf16", "int8"};  // in the order of RoofKind

// On a thread of libuv: it belongs to no device, and its own threads do the work.
class RoofWorker : public Napi::AsyncWorker {
 public:
  RoofWorker(Napi::Env env, std::shared_ptr<RoofMeter> meter, RoofKind kind, double seconds)
      : AsyncWorker(env, "openmoe.measureRoof"),
        meter_(std::move(meter)),
        kind_(kind),
        seconds_(seconds),
        deferred_(env) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { roof_ = meter_->measure(kind_, seconds_); }
  void OnOK() override {
    Napi::Object result = Napi::Object::New(Env());
    result.Set("median", roof_.median);
    result.Set("best", roof_.best);
    result.Set("cleanSlices", roof_.clean_slices);
    result.Set("slices", roof_.slices);
    result.Set("instructions", roof_.instructions);
    deferred_.Resolve(result);
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  std::shared_ptr<RoofMeter> meter_;
  RoofKind kind_;
  double seconds_;
  Napi::Promise::Deferred deferred_;
  Roof roof_{};
};

// openRoofMeter(threads, isa) -> meter
Napi::Value open_meter(const Napi::CallbackInfo& info) {
  const int threads = info[0].ToNumber().Int32Value();
  if (threads < 1 || threads > 1024) throw Error("INVALID_ARG", "openRoofMeter: expected 1 to 1024 threads");
  return make_handle(info.Env(), std::make_shared<RoofMeter>(threads, info[1].ToString()));
}

// closeRoofMeter(meter): gives its memory back, once nothing is being measured.
Napi::Value close_meter(const Napi::CallbackInfo& info) {
  slot_of<RoofMeter>(info[0]).reset();
  return info.Env().Undefined();
}

// measureRoof(meter, kind, seconds) -> Promise<{ median, best, cleanSlices, slices, instructions }>
Napi::Value measure(const Napi::CallbackInfo& info) {
  const std::string kind = info[1].ToString();
  const double seconds = info[2].ToNumber().DoubleValue();
  int index = 0;
  while (index < 5 && kind != kKinds[index]) ++index;
  if (index == 5 || !(seconds > 0 && seconds <= 60))
    throw Error("INVALID_ARG", "measureRoof: expected read, copy, f32, bf16 or int8 and up to 60 seconds");
  auto* worker = new RoofWorker(info.Env(), from_handle<RoofMeter>(info[0]), static_cast<RoofKind>(index),
                                seconds);  // deletes itself
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

class ReadWorker : public Napi::AsyncWorker {
 public:
  ReadWorker(Napi::Env env, std::string path, int threads, ReadInto into)
      : AsyncWorker(env, "openmoe.readFile"), path_(std::move(path)), threads_(threads), into_(into), deferred_(env) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { seconds_ = read_file_seconds(path_, threads_, into_); }
  void OnOK() override { deferred_.Resolve(Napi::Number::New(Env(), seconds_)); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  std::string path_;
  int threads_;
  ReadInto into_;
  Napi::Promise::Deferred deferred_;
  double seconds_ = 0;
};

// readFile(path, threads, 'cache' | 'fresh') -> Promise<seconds>
Napi::Value read_file(const Napi::CallbackInfo& info) {
  const std::string path = info[0].ToString(), into = info[2].ToString();
  const int threads = info[1].ToNumber().Int32Value();
  if (threads < 1 || threads > 1024 || (into != "cache" && into != "fresh"))
    throw to_js_error(info.Env(),
                      Error("INVALID_ARG", "readFile: expected a path, 1 to 1024 threads, and cache or fresh"));
  auto* worker =
      new ReadWorker(info.Env(), path, threads, into == "cache" ? ReadInto::cache : ReadInto::fresh);  // deletes itself
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void init_roofline(Napi::Env env, Napi::Object exports) {
  exports.Set("openRoofMeter", Napi::Function::New(env, guarded(open_meter), "openRoofMeter"));
  exports.Set("closeRoofMeter", Napi::Function::New(env, guarded(close_meter), "closeRoofMeter"));
  exports.Set("measureRoof", Napi::Function::New(env, guarded(measure), "measureRoof"));
  exports.Set("readFile", Napi::Function::New(env, read_file, "readFile"));
}

}  // namespace openmoe
