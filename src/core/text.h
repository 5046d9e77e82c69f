// Small helpers for texts: the nearest of some names, a list of them, short forms of names and
// numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace arrow_quant {

/// The candidate nearest to `name` by edit distance, or empty when none is near.
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

/// "a, b, c", cut after `max_entries` entries with a count of the rest.
std::string join(const std::vector<std::string>& parts, size_t max_entries = 10);

/// `value` to four significant digits: enough to compare, and short as text.
double rounded(double value) noexcept;

/// `text` cut to about 80 bytes between two characters, for names that strangers made.
std::string printable(std::string_view text);

}  // namespace arrow_quant
