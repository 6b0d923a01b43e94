module im/tools/test

go 1.26.0
