#include "core/json.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "arrow_quant/error.h"
#include "core/text.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kMetadata, "not valid JSON: " + what, {.path = path});
}

/// Builds the document and refuses what nlohmann's own builder would let through.
class StrictBuilder final : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(const std::string& path, size_t max_depth) : path_(path), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    if (stack_.back()->contains(name)) fail(path_, "duplicate key '" + printable(name) + "'");
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(path_, "byte " + std::to_string(position) + ": " + json_problem(error));
  }

 private:
  Json* place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  // Pointers on the stack stay valid: only the innermost container grows.
  bool open(Json container) {
    if (stack_.size() >= max_depth_)
      fail(path_, "nested deeper than " + std::to_string(max_depth_));
    stack_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    stack_.pop_back();
    return true;
  }

  const std::string& path_;
  const size_t max_depth_;
  Json root_;
  std::string key_;
  std::vector<Json*> stack_;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& path, JsonLimits limits) {
  if (text.size() > limits.max_bytes) {
    fail(path, std::to_string(text.size()) + " bytes, at most " + std::to_string(limits.max_bytes) +
                   " are read");
  }
  if (text.starts_with("\xEF\xBB\xBF")) fail(path, "starts with a byte order mark");
  // To nlohmann a NUL is the end of the input, whatever follows.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    fail(path, "byte " + std::to_string(nul + 1) + ": a NUL character");
  }
  StrictBuilder builder(path, limits.max_depth);
  Json::sax_parse(text, &builder);
  return builder.take();
}

nlohmann::json parse_config(std::string_view text, const std::string& path) {
  constexpr std::string_view kNumbers[] = {"-Infinity", "Infinity", "NaN"};
  std::string plain;
  plain.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    const auto* const number = std::ranges::find_if(
        kNumbers, [rest](std::string_view word) { return rest.starts_with(word); });
    if (!in_string && number != std::end(kNumbers)) {
      plain += "null";
      i += number->size();
      continue;
    }
    if (in_string && rest.front() == '\\' && rest.size() > 1)
      plain += text[i++];
    else if (rest.front() == '"')
      in_string = !in_string;
    plain += text[i++];
  }
  return parse_json(plain, path);
}

std::string json_problem(const nlohmann::json::exception& error) {
  std::string_view text = error.what();
  if (const size_t prefix = text.find("] "); prefix != std::string_view::npos) {
    text.remove_prefix(prefix + 2);
  }
  // "parse error at line 1, column 2: syntax error while parsing value - invalid literal; last
  // read:
  // '...'"
  text = text.substr(0, text.find("; last read"));
  if (const size_t detail = text.find(": syntax error"); detail != std::string_view::npos) {
    text.remove_prefix(detail + 2);
  }
  constexpr std::string_view kOverflow = "number overflow";
  return std::string(text.starts_with(kOverflow) ? kOverflow : text);
}

}  // namespace arrow_quant
