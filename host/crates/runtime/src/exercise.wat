;; Loads of known kinds: each export goes round $n times.
(module
  (import "load" "move" (func $move (param i32 i32)))
  (memory (export "bytes") 512)

  ;; Many operators in a nanosecond: shifts and exclusive ors in registers.
  (func (export "integers") (param $n i32) (result i64)
    (local $x i64)
    (local.set $x (i64.const 88172645463325252))
    (loop $again
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (local.get $x))

  ;; Few operators in a nanosecond: each root and each division waits for the one before.
  (func (export "floats") (param $n i32) (result i64)
    (local $x f64)
    (loop $again
      (local.set $x
        (f64.div (f64.sqrt (f64.add (f64.mul (local.get $x) (local.get $x)) (f64.const 1.5)))
                 (f64.const 1.0000001)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (i64.reinterpret_f64 (local.get $x)))

  ;; Words all over 32 MiB, which is more than most caches hold.
  (func (export "memory") (param $n i32) (result i64)
    (local $a i32) (local $at i32)
    (local.set $a (local.get $n))
    (loop $again
      (local.set $a (i32.add (i32.mul (local.get $a) (i32.const 1664525)) (i32.const 1013904223)))
      (local.set $at (i32.and (i32.shr_u (local.get $a) (i32.const 7)) (i32.const 0x1fffff8)))
      (i64.store (local.get $at) (i64.add (i64.load (local.get $at)) (i64.const 1)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (i64.extend_i32_u (local.get $a)))

  ;; 64 KiB at a time from the guest to the host.
  (func (export "traffic") (param $n i32) (result i64)
    (loop $again
      (call $move (i32.mul (i32.and (local.get $n) (i32.const 255)) (i32.const 65536)) (i32.const 65536))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (local.get $n)))
    (i64.const 0)))
