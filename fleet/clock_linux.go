package fleet

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock is the clock that goes on while the host sleeps and that nobody sets. It is compared with itself only.
func bootClock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}
