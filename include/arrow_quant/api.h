// Marks what the shared library exports; everything else stays hidden.
#pragma once

#define ARROW_QUANT_API __attribute__((visibility("default")))
