# A file as a C++ header: `NAME` is its text. As numbers, so that no character of it means anything to CMake.
file(READ ${FILE} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
file(WRITE ${OUTPUT} "#pragma once\n#include <string_view>\nnamespace fp4scope::app {\n"
                     "inline constexpr char ${NAME}_bytes[] = {${bytes}'\\0'};\n"
                     "inline constexpr std::string_view ${NAME}(${NAME}_bytes, sizeof ${NAME}_bytes - 1);\n"
                     "}  // namespace fp4scope::app\n")
