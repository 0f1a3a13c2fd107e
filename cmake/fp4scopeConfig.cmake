# find_package(fp4scope): the target fp4scope::fp4scope, headers rooted at the repository ("formats/codec.hpp").
include("${CMAKE_CURRENT_LIST_DIR}/fp4scopeTargets.cmake")
