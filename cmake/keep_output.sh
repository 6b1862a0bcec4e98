# Runs a compiler and keeps what it says beside its object, as OBJECT.log: npm run cuda:gate reads there what ptxas made of
# the kernels that are shipped, instead of compiling them once more. What is not ptxas -v still shows.
object=
previous=
for argument; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
"$@" >"$object.log" 2>&1
status=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' "$object.log" >&2
exit $status
