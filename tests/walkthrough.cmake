# The example of docs/adding_a_family.md, taken out of the page: its C file becomes part of a program, its description a
# file for --arch. Run as a script it writes both; included it builds moegraft-inspect with the family in.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ ${PAGE} page)
  string(REPLACE ";" "\\;" page "${page}")
  foreach(kind c yaml)
    string(REGEX MATCH "\n```${kind}\n([^`]*)```" found "${page}")
    if(NOT found)
      message(FATAL_ERROR "${PAGE} has no block of ${kind}")
    endif()
    string(REPLACE "\\;" ";" text "${CMAKE_MATCH_1}")
    file(WRITE ${OUT}/acorn.${kind} "${text}")
  endforeach()
  file(READ ${ARCHS} archs)
  file(WRITE ${OUT}/formats/arch/archs.inc "${archs}MG_ARCH(acorn)\n")
  return()
endif()

set(WALK ${PROJECT_BINARY_DIR}/walkthrough)
add_custom_command(
  OUTPUT ${WALK}/acorn.c ${WALK}/acorn.yaml ${WALK}/formats/arch/archs.inc
  COMMAND ${CMAKE_COMMAND} -DPAGE=${PROJECT_SOURCE_DIR}/docs/adding_a_family.md -DOUT=${WALK}
          -DARCHS=${PROJECT_SOURCE_DIR}/formats/arch/archs.inc -P ${CMAKE_CURRENT_LIST_FILE}
  DEPENDS ${PROJECT_SOURCE_DIR}/docs/adding_a_family.md ${PROJECT_SOURCE_DIR}/formats/arch/archs.inc ${CMAKE_CURRENT_LIST_FILE}
  VERBATIM)
# The registry is compiled anew with the longer list; the linker takes it before the library's.
add_executable(walkthrough_inspect ../formats/tool_inspect.c ../formats/tool_inspect_facts.c ../formats/tool_inspect_json.c
  ../formats/tool_inspect_print.c ../convert/tool_recipe.c ../formats/arch/arch.c ${WALK}/acorn.c ${WALK}/formats/arch/archs.inc)
target_include_directories(walkthrough_inspect BEFORE PRIVATE ${WALK})
target_link_libraries(walkthrough_inspect PRIVATE ${MG_ROOMS} m)
mg_e2e(walkthrough)
