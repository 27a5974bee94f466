dnl PENSTOCK_ISA(NAME, HOST_CPU_PATTERN, FLAGS, INCLUDES, BODY)
dnl Can the compiler build NAME's kernels? If so: -DHAVE_<NAME>=1, the conditional HAVE_<NAME> and <NAME>_CFLAGS=FLAGS. Whether
dnl the processor runs them is asked at run time (simd/cpu.c), so a cross or a distribution's build has them all.
AC_DEFUN([PENSTOCK_ISA], [
  AS_VAR_PUSHDEF([cache], [penstock_cv_isa_$1])
  AC_CACHE_CHECK([whether the compiler builds $1 kernels], [cache], [
    AS_VAR_SET([cache], [no])
    AS_CASE([$host_cpu], [$2], [
      penstock_isa_save=$CFLAGS
      CFLAGS="$CFLAGS $3"
      AC_LINK_IFELSE([AC_LANG_PROGRAM([$4], [$5])], [AS_VAR_SET([cache], [yes])])
      CFLAGS=$penstock_isa_save
    ])
  ])
  AS_VAR_IF([cache], [yes], [
    AC_DEFINE(AS_TR_CPP([HAVE_$1]), [1], [the $1 kernels are built])
    penstock_isas="$penstock_isas $1"
  ])
  AM_CONDITIONAL(AS_TR_CPP([HAVE_$1]), [AS_VAR_TEST_SET([cache]) && AS_VAR_IF([cache], [yes], [true], [false])])
  AC_SUBST(AS_TR_CPP([$1])[_CFLAGS], ["$3"])
  AS_VAR_POPDEF([cache])
])
