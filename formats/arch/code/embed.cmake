# cmake -DOUT=file.c -DFILES="symbol=path;..." -P embed.cmake: each file as a mg_code_file of that symbol.
set(c "#include \"formats/arch/arch.h\"\n#include \"formats/arch/arch_rows.h\"\n")
foreach(pair IN LISTS FILES)
  string(REGEX MATCH "^([^=]+)=(.+)$" all "${pair}")
  set(symbol ${CMAKE_MATCH_1})
  set(path ${CMAKE_MATCH_2})
  get_filename_component(name ${path} NAME)
  file(READ ${path} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(APPEND c "static const unsigned char ${symbol}_text[] = {${bytes}};\n"
                  "const mg_code_file ${symbol} = {\"${name}\", ${symbol}_text, sizeof ${symbol}_text};\n")
endforeach()
file(WRITE ${OUT} "${c}")
