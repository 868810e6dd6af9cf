# Fuzz targets: mg_fuzz(<name> <runs>) builds fuzz_<name>.c. With clang and -DMG_FUZZ=ON it links libFuzzer (run it by hand on
# data/fuzz/<name>); otherwise fuzz_driver.c replays data/fuzz/<name> and <runs> seeded mutations, as an ordinary test.
option(MG_FUZZ "build the fuzz targets with libFuzzer (clang)" OFF)
if(MG_FUZZ)
  target_compile_options(mg_flags INTERFACE -fsanitize=fuzzer-no-link) # coverage in the code under test
endif()
function(mg_fuzz name runs)
  if(MG_FUZZ)
    add_executable(fuzz_${name} fuzz_${name}.c)
    target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(fuzz_${name} fuzz_${name}.c fuzz_driver.c)
    add_test(NAME fuzz_${name} COMMAND fuzz_${name} -runs=${runs} -seed=1 ${CMAKE_CURRENT_SOURCE_DIR}/data/fuzz/${name})
    mg_test_setup(fuzz_${name})
  endif()
  target_link_libraries(fuzz_${name} PRIVATE ${MG_ROOMS} m)
endfunction()

mg_fuzz(safetensors 30000)
mg_fuzz(gguf 30000)
mg_fuzz(json 30000)
mg_fuzz(yaml 10000)
mg_fuzz(imatrix 10000)
