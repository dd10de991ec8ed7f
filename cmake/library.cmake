# The library for other programs: pybptt::pybptt, in a build tree (add_subdirectory, FetchContent) and installed. Built alone it is
# made both ways of the same objects, for Windows static; as a part of another project, the way that BUILD_SHARED_LIBS says.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(pybptt_c OBJECT
  src/cpp/c/given.cpp
  src/cpp/c/layer.cpp
  src/cpp/c/model.cpp
  src/cpp/c/network.cpp
  src/cpp/c/process.cpp)
target_link_libraries(pybptt_c PRIVATE pybptt_options)

if(WIN32)
  set(kinds static)  # no DLL has been tried
elseif(PROJECT_IS_TOP_LEVEL)
  set(kinds static shared)
elseif(BUILD_SHARED_LIBS)
  set(kinds shared)
else()
  set(kinds static)
endif()

foreach(kind IN LISTS kinds)
  string(TOUPPER ${kind} type)
  add_library(pybptt_${kind} ${type})
  target_sources(pybptt_${kind} PRIVATE $<TARGET_PROPERTY:pybptt_core,INTERFACE_SOURCES> $<TARGET_OBJECTS:pybptt_c>)
  target_link_libraries(pybptt_${kind} PRIVATE $<BUILD_INTERFACE:pybptt_options> ${system_libraries})
  target_compile_features(pybptt_${kind} INTERFACE cxx_std_17)
  target_include_directories(pybptt_${kind} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src/cpp/include>
    $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set_target_properties(pybptt_${kind} PROPERTIES
    OUTPUT_NAME pybptt
    EXPORT_NAME ${kind}
    LINKER_LANGUAGE CXX
    VERSION ${PROJECT_VERSION}
    SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})  # before 1.0 a minor version may break what was
endforeach()
list(GET kinds 0 kind)
add_library(pybptt::pybptt ALIAS pybptt_${kind})
if(NOT "shared" IN_LIST kinds)
  target_compile_definitions(pybptt_options INTERFACE PYBPTT_STATIC)
endif()

if(PYBPTT_INSTALL)
  list(TRANSFORM kinds PREPEND pybptt_ OUTPUT_VARIABLE targets)
  install(TARGETS ${targets} EXPORT pybpttTargets)
  install(DIRECTORY src/cpp/include/ ${PROJECT_BINARY_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/pybptt)
  install(EXPORT pybpttTargets NAMESPACE pybptt:: DESTINATION ${package})
  configure_package_config_file(cmake/pybpttConfig.cmake.in pybpttConfig.cmake INSTALL_DESTINATION ${package})
  write_basic_package_version_file(pybpttConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/pybpttConfig.cmake ${PROJECT_BINARY_DIR}/pybpttConfigVersion.cmake DESTINATION ${package})

  # A C program that is linked with the static library names the C++ runtime itself.
  set(runtime ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES} ${CMAKE_DL_LIBS})
  list(FILTER runtime INCLUDE REGEX "^(stdc\\+\\+|c\\+\\+|m|dl)$")
  list(REMOVE_DUPLICATES runtime)
  list(TRANSFORM runtime PREPEND -l)
  list(JOIN runtime " " runtime)
  file(RELATIVE_PATH to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(cmake/pybptt.pc.in pybptt.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/pybptt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()
