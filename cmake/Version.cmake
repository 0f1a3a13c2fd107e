# Run at every build: app/version.hpp with the version and the commit, touched only when they change.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE_DIR}
                OUTPUT_VARIABLE FP4SCOPE_GIT_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(FP4SCOPE_GIT_COMMIT "unknown")
endif()
configure_file(${SOURCE_DIR}/app/version.hpp.in ${OUTPUT} @ONLY)
