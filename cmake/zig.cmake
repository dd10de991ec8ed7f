# Cross-compiles with PyPI's ziglang, which is Clang with every system's headers and libraries: PYBPTT_ZIG_TARGET is aarch64-macos,
# x86_64-windows-gnu, ...
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PYBPTT_ZIG_TARGET)
string(REGEX MATCH "^([^-]+)-([^-]+)" _ "${PYBPTT_ZIG_TARGET}")
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
set(CMAKE_SYSTEM_NAME ${CMAKE_MATCH_2})
string(REPLACE "macos" "Darwin" CMAKE_SYSTEM_NAME ${CMAKE_SYSTEM_NAME})
string(REPLACE "windows" "Windows" CMAKE_SYSTEM_NAME ${CMAKE_SYSTEM_NAME})
string(REPLACE "linux" "Linux" CMAKE_SYSTEM_NAME ${CMAKE_SYSTEM_NAME})

find_program(PYBPTT_ZIG python-zig REQUIRED)
set(CMAKE_C_COMPILER ${PYBPTT_ZIG} cc -target ${PYBPTT_ZIG_TARGET})
set(CMAKE_CXX_COMPILER ${PYBPTT_ZIG} c++ -target ${PYBPTT_ZIG_TARGET})
set(CMAKE_C_FLAGS_INIT -fno-sanitize=undefined)  # which it adds to what is not optimised
set(CMAKE_CXX_FLAGS_INIT -fno-sanitize=undefined)
foreach(tool ar ranlib)  # CMake wants one program
  string(TOUPPER ${tool} variable)
  if(CMAKE_HOST_WIN32)
    set(CMAKE_${variable} ${CMAKE_BINARY_DIR}/zig-${tool}.cmd)
    file(WRITE ${CMAKE_${variable}} "@\"${PYBPTT_ZIG}\" ${tool} %*\n")
  else()
    set(CMAKE_${variable} ${CMAKE_BINARY_DIR}/zig-${tool})
    file(WRITE ${CMAKE_${variable}} "#!/bin/sh\nexec '${PYBPTT_ZIG}' ${tool} \"$@\"\n")
    file(CHMOD ${CMAKE_${variable}} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  endif()
endforeach()
set(CMAKE_INSTALL_NAME_TOOL true)  # no installed library of ours needs it
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY NEVER)
