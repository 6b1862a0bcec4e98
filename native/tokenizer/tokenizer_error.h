// The one exception of native/tokenizer: a tokenizer file, or a text, that cannot be used. The message is for the user.
#pragma once

#include <stdexcept>

namespace openmoe {

struct TokenizerError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace openmoe
