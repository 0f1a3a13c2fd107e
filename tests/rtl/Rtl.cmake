# The rtl label: the SystemVerilog of this folder, linted and simulated by Verilator (5.006 or newer). Verilator
# compiles its model and the test into one program. Without it the tests are there and say skipped.
set(rtl_folder ${CMAKE_CURRENT_LIST_DIR})
set(rtl_test ${CMAKE_BINARY_DIR}/tests/nvfp4_mac_rtl_test)
find_program(FP4SCOPE_VERILATOR NAMES verilator)
if(FP4SCOPE_VERILATOR)
  file(GLOB rtl_sources CONFIGURE_DEPENDS ${rtl_folder}/*.sv)
  set(rtl_top --top-module rtl_test_top -I${rtl_folder} ${rtl_folder}/rtl_test_top.sv)
  add_custom_command(OUTPUT ${rtl_test}
    DEPENDS ${rtl_sources} ${rtl_folder}/nvfp4_mac_rtl_test.cpp ${CMAKE_SOURCE_DIR}/sim/mac.hpp
            ${CMAKE_SOURCE_DIR}/analysis/mac_beats.hpp ${CMAKE_SOURCE_DIR}/analysis/mac_golden.hpp
            ${CMAKE_SOURCE_DIR}/formats/codec.hpp ${CMAKE_SOURCE_DIR}/formats/format.hpp
    COMMAND ${CMAKE_COMMAND} -E env --unset=MAKEFLAGS OBJCACHE=${CMAKE_CXX_COMPILER_LAUNCHER} ${FP4SCOPE_VERILATOR}
            --cc --exe --build -j 1 -O3 -Wno-fatal ${rtl_top} ${rtl_folder}/nvfp4_mac_rtl_test.cpp
            -CFLAGS "-std=c++20 -O1 -ffp-contract=off -I${CMAKE_SOURCE_DIR}" -LDFLAGS "-lgtest -lgtest_main"
            -MAKEFLAGS --silent --Mdir ${CMAKE_CURRENT_BINARY_DIR}/rtl -o ${rtl_test}
    COMMENT "Verilating tests/rtl" VERBATIM)
  add_custom_target(nvfp4_mac_rtl_test ALL DEPENDS ${rtl_test})
  add_test(NAME nvfp4_mac_rtl_test COMMAND ${rtl_test})
  add_test(NAME rtl_lint COMMAND ${FP4SCOPE_VERILATOR} --lint-only -Wall ${rtl_top})
  set_tests_properties(rtl_lint PROPERTIES LABELS rtl)
else()
  add_test(NAME nvfp4_mac_rtl_test COMMAND sh -c "echo 'skipped: no verilator'; exit 77")
endif()
set_tests_properties(nvfp4_mac_rtl_test PROPERTIES LABELS rtl SKIP_RETURN_CODE 77)
