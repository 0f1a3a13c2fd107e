/* The C function from C: what agrees, what does not and in which class, and wrong arguments, each told in one line. */
#include "analysis/c_api.h"

#include <stdio.h>
#include <string.h>

static int failed = 0;

static void expect(int holds, const char* what, int line) {
  if (holds) return;
  failed = 1;
  printf("%s:%d: %s\n", __FILE__, line, what);
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)

/* A block of 32 whose amax 6 has the scale 1, byte 127: every element of E2M1 is itself. */
static const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

struct Block {
  float x[32];
  uint16_t bf16[32];
  uint8_t codes[16], scale;
};

static struct Block make_block(void) {
  struct Block b;
  memset(&b, 0, sizeof b);
  b.scale = 127;
  for (int i = 0; i < 32; ++i) {
    const int code = i % 8 + (i % 8 != 0 && i >= 16 ? 8 : 0);
    b.x[i] = code >= 8 ? -values[code - 8] : values[code];
    uint32_t bits;
    memcpy(&bits, &b.x[i], sizeof bits);
    b.bf16[i] = (uint16_t)(bits >> 16);
    b.codes[i / 2] |= (uint8_t)(code << (i % 2 * 4));
  }
  return b;
}

static int64_t class_count(const fp4scope_counts* counts, const char* name) {
  for (int i = 0; fp4scope_class_name(i); ++i) {
    if (strcmp(fp4scope_class_name(i), name) == 0) return counts->classes[i];
  }
  return -1;
}

int main(void) {
  char report[4096];
  fp4scope_counts counts;
  struct Block b = make_block();

  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", "ocp", 0, report, sizeof report,
                             &counts) == 0);
  EXPECT(counts.blocks == 1 && counts.equal == 1 && counts.elements == 32 && counts.elements_differ == 0);
  EXPECT(strcmp(counts.recipe, "ocp") == 0);
  EXPECT(strstr(report, "all 1 blocks agree") != NULL);
  EXPECT(fp4scope_crosscheck(b.bf16, "bf16", 1, 32, b.codes, &b.scale, 1, "mxfp4", NULL, 32, NULL, 0, NULL) == 0);

  b.codes[1] ^= 4; /* element 2: 1 -> 3 */
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", "ocp", 0, report, sizeof report,
                             &counts) == 1);
  EXPECT(counts.equal == 0 && counts.codes_differ == 1 && counts.scales_differ == 0 && counts.elements_differ == 1);
  EXPECT(class_count(&counts, "unexplained") == 1);
  EXPECT(strstr(report, "row 0, block 0, column 2: code 0x6 (4), ocp 0x2 (1)") != NULL);

  char small[8];
  memset(small, 'x', sizeof small);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", "ocp", 0, small, sizeof small, NULL) ==
         1);
  EXPECT(strlen(small) == 7);

  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp5", NULL, 0, report, sizeof report,
                             &counts) == 2);
  EXPECT(strstr(report, "unknown format 'mxfp5'") != NULL && strchr(report, '\n') == NULL);
  EXPECT(counts.blocks == 0);
  EXPECT(fp4scope_crosscheck(b.x, "f31", 1, 32, b.codes, &b.scale, 0, "mxfp4", NULL, 0, report, sizeof report, NULL) ==
         2);
  EXPECT(strstr(report, "'f31'") != NULL);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", "te", 0, report, sizeof report, NULL) ==
         2);
  EXPECT(strstr(report, "'te' has no mxfp4") != NULL);
  EXPECT(fp4scope_crosscheck(NULL, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", NULL, 0, report, sizeof report, NULL) ==
         2);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 0, 32, b.codes, &b.scale, 0, "mxfp4", NULL, 0, report, sizeof report, NULL) ==
         2);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 31, b.codes, &b.scale, 0, "mxfp4", NULL, 0, report, sizeof report, NULL) ==
         2);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, -1, "mxfp4", NULL, 0, report, sizeof report, NULL) ==
         2);
  EXPECT(fp4scope_crosscheck(b.x, "f32", 1, 32, b.codes, &b.scale, 0, "mxfp4", NULL, 3, report, sizeof report, NULL) ==
         2);
  EXPECT(fp4scope_crosscheck(b.x, NULL, INT64_MAX, INT64_MAX, b.codes, &b.scale, 0, NULL, NULL, 0, report,
                             sizeof report, NULL) == 2);

  int classes = 0;
  while (fp4scope_class_name(classes)) ++classes;
  EXPECT(classes > 0 && classes <= FP4SCOPE_CLASSES);
  EXPECT(fp4scope_class_name(-1) == NULL && fp4scope_class_name(1000) == NULL);
  if (!failed) puts("all as it should be");
  return failed;
}
