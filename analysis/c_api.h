/* crosscheck in one call, for a program that has the bytes in memory: are these the codes and scales of a recipe?
 *
 * Plain C, no allocation that the caller owns, no exceptions, safe to call from several threads. Library fp4scope. */
#ifndef FP4SCOPE_C_API_H
#define FP4SCOPE_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FP4SCOPE_CLASSES 32
#define FP4SCOPE_API __attribute__((visibility("default")))

/* Blocks, but for the elements. Of the recipe that was given, else of the one that agrees most. */
typedef struct fp4scope_counts {
  int64_t blocks;                    /* in all */
  int64_t equal;                     /* scale and every code agree */
  int64_t scales_differ;             /* another scale byte */
  int64_t codes_differ;              /* the same scale byte, other codes */
  int64_t elements;                  /* in all, padding left out */
  int64_t elements_differ;           /* other codes */
  int64_t classes[FP4SCOPE_CLASSES]; /* blocks that differ, by class; names: fp4scope_class_name */
  char recipe[64];                   /* its name, with METHOD and choices */
} fp4scope_counts;

/* x             [rows, cols], row-major, of dtype "f32", "bf16", "f16" or "f64"
 * codes         4-bit elements: [rows, cols / 2], the even column in the low nibble; wider ones: [rows, cols], one a
 * byte scales        [rows, ceil(cols / block)], row-major raw bytes tensor_scale  the multiplier on decode; 0 where
 * there is none or it is not known: each recipe then has its own format        "nvfp4", "mxfp4", "nvint4", ... as
 * `fp4scope formats` lists them recipe        "te", "exact", ... as `fp4scope recipes` lists them; NULL: the one that
 * agrees most block         elements that share a scale; 0: the format's own report        NULL, or room for
 * report_size bytes: what crosscheck prints, cut to fit, with a zero at its end out           NULL, or the counts
 *
 * Returns 0 if every block agrees, 1 if not, 2 if the arguments are wrong: the report then is one line that says what.
 */
FP4SCOPE_API int fp4scope_crosscheck(const void* x, const char* dtype, int64_t rows, int64_t cols, const uint8_t* codes,
                                     const uint8_t* scales, float tensor_scale, const char* format, const char* recipe,
                                     int block, char* report, size_t report_size, fp4scope_counts* out);

/* The name of classes[index], NULL from the last one on. */
FP4SCOPE_API const char* fp4scope_class_name(int index);

#ifdef __cplusplus
}
#endif

#endif
