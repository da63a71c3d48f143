"""The loop: one turn over the active vWires, what has changed in the plan, and when to sleep.

Control publishes changes by one atomic exchange and learns of their adoption through an
eventfd. Nothing in the loop locks, allocates, raises or touches Python.
"""

import atexit
import os
import signal
import threading

from libc.errno cimport EBUSY, EINVAL, ENOENT, ESHUTDOWN, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from forwarder.dataplane.allocation cimport (
    ALLOCATED_BURST,
    ALLOCATED_CHANGE,
    ALLOCATED_WORKER,
    allocate,
    allocate_untouched,
    release,
)
from forwarder.dataplane.atomics cimport (
    exchange_ptr,
    load_acquire32,
    load_acquire64,
    load_acquire_int,
    load_acquire_ptr,
    load_relaxed32,
    load_relaxed64,
    store_release32,
    store_release64,
)
from forwarder.dataplane.event cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLIN,
    EPOLLONESHOT,
    POLLIN,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    eventfd,
    eventfd_read,
    eventfd_write,
    now_ns,
    pollfd,
    ppoll,
    timespec,
)
from forwarder.dataplane.frame cimport POOL_BYTES
from forwarder.dataplane.measure cimport TIMED_TURNS
from forwarder.dataplane.port cimport PORT_DEAD, PORT_EDGE, PORT_UNFENCED, port_t
from forwarder.dataplane.vwire cimport TURN_STALLED, TURN_WORKED, Vwire, vwire_turn, vwire_t

from forwarder.dataplane.statistics import WorkerStatistics
from forwarder.errors import DataplaneError

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_SET_TIMERSLACK
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)

cdef enum:
    EVENTS = 64                 # wake-ups taken at once
    LOOKS = 6                   # how often a sleeping vWire is looked at again

cdef enum standing_t:
    AWAY                        # not in the plan
    ACTIVE                      # run each turn
    ASLEEP                      # waits for a wake-up

cdef uint64_t POLL_EVERY_NS = 50_000        # wake-ups are asked for this often while there is work
cdef uint64_t DOZE_NS = 20_000              # pause while all there is to do is to wait for room
cdef uint64_t FIRST_LOOK_NS = 10_000_000
cdef uint64_t LONGEST_LOOK_NS = 100_000_000


# --- Lists ----------------------------------------------------------------------------------


cdef inline void enter(vwire_t **head, vwire_t *wire) noexcept nogil:
    wire.previous = NULL
    wire.next = head[0]
    if head[0] != NULL:
        head[0].previous = wire
    head[0] = wire


cdef inline void take_out(vwire_t **head, vwire_t *wire) noexcept nogil:
    if wire.previous != NULL:
        wire.previous.next = wire.next
    elif head[0] == wire:
        head[0] = wire.next
    if wire.next != NULL:
        wire.next.previous = wire.previous
    wire.previous = wire.next = NULL


# --- Waiting descriptors --------------------------------------------------------------------


cdef inline uint32_t wait_events(port_t *port) noexcept nogil:
    # Eventfds of polling peers stay silent by themselves. A socket does not: it is switched off
    # by its first event, until the vWire sleeps again.
    return EPOLLIN | (EPOLLET if port.flags & PORT_EDGE else EPOLLONESHOT)


cdef void watch_port(worker_t *self, vwire_t *wire, port_t *port) noexcept nogil:
    """Makes the epoll set hold the port's present wait_fd, and nothing else of it."""
    cdef epoll_event event
    cdef int fd = load_acquire_int(&port.wait_fd)
    unwatch_port(self, port)
    if fd < 0:
        return
    event.events = wait_events(port)
    event.data.ptr = wire
    if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0:
        port.registered_fd = fd


cdef void unwatch_port(worker_t *self, port_t *port) noexcept nogil:
    cdef epoll_event event
    if port.registered_fd >= 0:
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, port.registered_fd, &event)
        port.registered_fd = -1


cdef bint arm_port(worker_t *self, vwire_t *wire, port_t *port) noexcept nogil:
    """Asks one port for a wake-up; returns whether frames are there already."""
    cdef epoll_event event
    if port.arm(port):
        return True
    if port.registered_fd >= 0 and not port.flags & PORT_EDGE:
        event.events = wait_events(port)
        event.data.ptr = wire
        epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, port.registered_fd, &event)
    return False


# --- A vWire's standing ---------------------------------------------------------------------


cdef void wake_wire(worker_t *self, vwire_t *wire, uint64_t now) noexcept nogil:
    """Makes a sleeping vWire active."""
    if wire.standing != ASLEEP:
        return
    if wire.looks_left:
        take_out(&self.watched, wire)
        wire.looks_left = 0
    wire.a_to_b.source.disarm(wire.a_to_b.source)
    wire.b_to_a.source.disarm(wire.b_to_a.source)
    wire.standing = ACTIVE
    wire.last_work_ns = now
    enter(&self.active, wire)


cdef void rest_wire(worker_t *self, vwire_t *wire, uint64_t now) noexcept nogil:
    """Sends an active vWire to sleep, unless frames came while its ports were armed."""
    cdef port_t *a = wire.a_to_b.source
    cdef port_t *b = wire.b_to_a.source
    if arm_port(self, wire, a):
        wire.last_work_ns = now
        return
    if arm_port(self, wire, b):
        a.disarm(a)
        wire.last_work_ns = now
        return
    take_out(&self.active, wire)
    wire.standing = ASLEEP
    if (a.flags | b.flags) & PORT_UNFENCED:
        wire.looks_left = LOOKS
        wire.due_ns = now + FIRST_LOOK_NS
        if self.watched == NULL or wire.due_ns < self.next_look_ns:
            self.next_look_ns = wire.due_ns
        enter(&self.watched, wire)


cdef void look_again(worker_t *self, uint64_t now) noexcept nogil:
    """Looks at the vWires that fell asleep lately, in case a wake-up was lost.

    A peer without a full fence between publishing a frame and reading our flags can read them
    from before we armed, and then its frame shows up a moment after our own look. Only what it
    published while we armed can be lost so: a vWire that stays silent through a few looks, 10 to
    100 ms apart, will be woken, and is left alone. One timer serves all.
    """
    cdef vwire_t *wire = self.watched
    cdef vwire_t *next_wire
    cdef port_t *a
    cdef port_t *b
    cdef uint64_t soonest = <uint64_t>-1
    cdef uint64_t pause
    while wire != NULL:
        next_wire = wire.next
        if wire.due_ns <= now:
            self.looks += 1
            a = wire.a_to_b.source
            b = wire.b_to_a.source
            if (a.flags & PORT_UNFENCED and a.arm(a)) or (b.flags & PORT_UNFENCED and b.arm(b)):
                self.rescues += 1
                wake_wire(self, wire, now)
                wire = next_wire
                continue
            wire.looks_left -= 1
            if wire.looks_left == 0:
                take_out(&self.watched, wire)
                wire = next_wire
                continue
            pause = FIRST_LOOK_NS << (<uint32_t>LOOKS - wire.looks_left)
            wire.due_ns = now + (pause if pause < LONGEST_LOOK_NS else LONGEST_LOOK_NS)
        if wire.due_ns < soonest:
            soonest = wire.due_ns
        wire = next_wire
    self.next_look_ns = soonest


cdef void report_dead(worker_t *self, port_t *port) noexcept nogil:
    """Tells control, once, that a port broke."""
    if load_acquire32(&port.state) & PORT_DEAD and not port.reported:
        port.reported = True
        store_release64(&self.faults, self.faults + 1)
        eventfd_write(self.notify_fd, 1)


# --- The plan -------------------------------------------------------------------------------


cdef void forget_wire(worker_t *self, vwire_t *wire) noexcept nogil:
    """Takes a vWire out of every list."""
    if wire.standing == ACTIVE:
        take_out(&self.active, wire)
    elif wire.standing == ASLEEP and wire.looks_left:
        take_out(&self.watched, wire)
    wire.looks_left = 0
    wire.standing = AWAY


cdef void adopt(worker_t *self, uint64_t now) noexcept nogil:
    """Puts a published change into force and tells control."""
    cdef change_t *change = <change_t *>exchange_ptr(&self.pending, NULL)
    cdef vwire_t *wire
    cdef port_t *ports[2]
    cdef uint32_t i, k
    if change == NULL:
        return
    for i in range(change.n):
        wire = change.steps[i].wire
        ports[0] = wire.a_to_b.source
        ports[1] = wire.b_to_a.source
        if change.steps[i].operation == OPERATION_REMOVE:
            for k in range(2):
                unwatch_port(self, ports[k])
            forget_wire(self, wire)
        elif change.steps[i].operation == OPERATION_ADD or wire.standing != AWAY:
            forget_wire(self, wire)
            for k in range(2):
                if ports[k].registered_fd != load_acquire_int(&ports[k].wait_fd):
                    watch_port(self, wire, ports[k])
                ports[k].reported = False
            wire.standing = ASLEEP
            wake_wire(self, wire, 0)    # a look at it; it is polled on only if frames are there
    store_release64(&self.adopted, change.generation)
    eventfd_write(self.notify_fd, 1)


# --- The loop -------------------------------------------------------------------------------


cdef void take_events(worker_t *self, int timeout_ms) noexcept nogil:
    """Waits for wake-ups, at most `timeout_ms` (-1: for ever), and makes the woken vWires active."""
    cdef epoll_event events[EVENTS]
    cdef int n = epoll_wait(self.epoll_fd, events, EVENTS, timeout_ms)
    cdef int i
    cdef uint64_t ignored
    cdef uint64_t now
    if n <= 0:
        return
    now = now_ns()
    for i in range(n):
        if events[i].data.ptr == NULL:
            eventfd_read(self.wake_fd, &ignored)
        else:
            self.wakes += 1
            wake_wire(self, <vwire_t *>events[i].data.ptr, now)


cdef void idle(worker_t *self, uint64_t now, bint all_stalled) noexcept nogil:
    """Decides how to spend the time until the next turn.

    Nothing active: sleep until a port, control, or the next look at sleepers. All that is active
    has been waiting for room at some receiver: doze, for on a machine with few CPUs that receiver may need
    ours. Otherwise poll on, and ask now and then for wake-ups of the sleepers.
    """
    cdef uint64_t left
    cdef timespec pause
    cdef pollfd poll_set
    cdef int timeout_ms = -1
    if self.watched != NULL and now >= self.next_look_ns:
        look_again(self, now)
    if self.active == NULL:
        if load_acquire_ptr(&self.pending) != NULL or load_acquire32(&self.stop):
            return
        if self.watched != NULL:
            left = self.next_look_ns - now if self.next_look_ns > now else 0
            timeout_ms = <int>(left // 1_000_000) + 1
        self.sleeps += 1
        take_events(self, timeout_ms)
    elif all_stalled:
        poll_set.fd = self.epoll_fd
        poll_set.events = POLLIN
        poll_set.revents = 0
        pause.tv_sec = 0
        pause.tv_nsec = <long>DOZE_NS
        if ppoll(&poll_set, 1, &pause, NULL) > 0:
            take_events(self, 0)
    elif now >= self.next_poll_ns:
        self.next_poll_ns = now + POLL_EVERY_NS
        take_events(self, 0)


cdef void run(worker_t *self) noexcept nogil:
    """Runs until told to stop."""
    cdef vwire_t *wire
    cdef vwire_t *next_wire
    cdef uint64_t now
    cdef uint64_t before = 0
    cdef uint32_t did
    cdef bint eager, stalled
    cdef bint worked = False
    while not load_acquire32(&self.stop):
        now = now_ns()
        if load_acquire_ptr(&self.pending) != NULL:
            adopt(self, now)
        if worked:
            self.busy_ns += now - before
        before = self.burst.now = now
        self.burst.timed = not worked or self.turns % TIMED_TURNS == 0
        eager = stalled = worked = False
        wire = self.active
        while wire != NULL:
            next_wire = wire.next
            did = vwire_turn(wire, self.burst, now, self.stall_limit_ns)
            if did & TURN_WORKED:
                eager = worked = True
                wire.last_work_ns = now
            elif now - wire.last_work_ns < self.poll_window_ns:
                eager = True
            elif did & TURN_STALLED:
                stalled = True
            else:
                rest_wire(self, wire, now)
            if (load_relaxed32(&wire.a_to_b.source.state) | load_relaxed32(&wire.b_to_a.source.state)) & PORT_DEAD:
                report_dead(self, wire.a_to_b.source)
                report_dead(self, wire.b_to_a.source)
            wire = next_wire
        store_release64(&self.turns, self.turns + 1)
        idle(self, now, stalled and not eager)
    store_release32(&self.ended, 1)
    eventfd_write(self.notify_fd, 1)


cdef class Worker:
    """A thread that runs vWires.

    `poll_window_us`: how long a vWire is polled after its last frame before it waits for a
    wake-up. `stall_limit_ms`: how long frames wait in their source for room on the other side.
    `cpu` pins the thread. All methods are for control's thread. `notify_fd` becomes readable when
    a change was adopted or a port was found dead; `acknowledge` then, and compare `adopted` and
    `faults`.
    """

    def __cinit__(
        self, *, str name="worker", cpu=None, uint64_t poll_window_us=50, uint64_t stall_limit_ms=20
    ):
        cdef epoll_event event
        self.wires = set()
        self.leaving = []
        self.name = name
        self.cpu = cpu
        self.c = <worker_t *>allocate(ALLOCATED_WORKER, sizeof(worker_t))
        self.c.epoll_fd = self.c.wake_fd = self.c.notify_fd = -1
        self.c.poll_window_ns = poll_window_us * 1000
        self.c.stall_limit_ns = stall_limit_ms * 1_000_000
        self.c.burst = <burst_t *>allocate(ALLOCATED_BURST, sizeof(burst_t))
        self.c.burst.pool = <uint8_t *>allocate_untouched(ALLOCATED_BURST, POOL_BYTES)
        self.c.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.c.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.c.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        event.events = EPOLLIN
        event.data.ptr = NULL
        if (
            self.c.epoll_fd < 0
            or self.c.wake_fd < 0
            or self.c.notify_fd < 0
            or epoll_ctl(self.c.epoll_fd, EPOLL_CTL_ADD, self.c.wake_fd, &event)
        ):
            raise DataplaneError(f"{name}: making its descriptors", errno=errno)

    def __dealloc__(self):
        if self.c == NULL:
            return      # while it runs, its thread keeps it
        self.c.adopted = self.generation
        self.collect()
        self.shut()
        release(ALLOCATED_WORKER, self.c)

    cdef void shut(self) noexcept:
        """Closes and frees what the thread needed."""
        if self.c.epoll_fd >= 0:
            close(self.c.epoll_fd)
        if self.c.wake_fd >= 0:
            close(self.c.wake_fd)
        if self.c.notify_fd >= 0:
            close(self.c.notify_fd)
        self.c.epoll_fd = self.c.wake_fd = self.c.notify_fd = -1
        if self.c.burst != NULL:
            release(ALLOCATED_BURST, self.c.burst.pool)
        release(ALLOCATED_BURST, self.c.burst)
        self.c.burst = NULL

    def __repr__(self):
        return f"<Worker {self.name}>"

    # --- The plan ---

    def add(self, Vwire wire not None):
        """Puts a vWire into the plan; returns the change's generation. It runs once that is adopted."""
        if wire.worker is not None:
            raise DataplaneError(f"{wire!r} is already run by {wire.worker!r}", errno=EBUSY)
        wire.a.take(wire)
        try:
            wire.b.take(wire)
            wire.a.c.registered_fd = wire.b.c.registered_fd = -1
            wire.worker = self
            self.wires.add(wire)
            return self.publish(OPERATION_ADD, wire.c)
        except BaseException:
            self.wires.discard(wire)
            wire.worker = None
            wire.a.leave(wire)
            wire.b.leave(wire)
            raise

    def remove(self, Vwire wire not None):
        """Takes a vWire out of the plan; returns the change's generation.

        Once that is adopted, nothing of the vWire and its ports is touched any more.
        """
        if wire not in self.wires:
            raise DataplaneError(f"{wire!r} is not run by {self!r}", errno=ENOENT)
        generation = self.publish(OPERATION_REMOVE, wire.c)
        self.wires.remove(wire)
        self.leaving.append((generation, wire))
        return generation

    def refresh(self, Vwire wire not None):
        """Tells the worker that a port's state changed; returns the change's generation.

        Once that is adopted, nothing of the port's former state is touched any more.
        """
        if wire not in self.wires:
            # It is on its way out, perhaps into another worker's plan: no step of ours may touch it
            # after the one that removes it, and with that one the port's state is out of use too.
            return self.generation
        return self.publish(OPERATION_REFRESH, wire.c)

    cdef uint64_t publish(self, operation_t operation, vwire_t *wire) except 0:
        """Adds a step to the change that the worker has not seen yet, or to a new one."""
        if self.c.burst == NULL:
            raise DataplaneError(f"{self.name} has stopped", errno=ESHUTDOWN)
        cdef change_t *change = <change_t *>exchange_ptr(&self.c.pending, NULL)
        cdef step_t *steps
        cdef uint32_t capacity
        try:
            if change == NULL:
                change = <change_t *>allocate(ALLOCATED_CHANGE, sizeof(change_t))
                change.older = self.changes
                self.changes = change
            if change.n == change.capacity:
                capacity = 2 * change.capacity + 4
                steps = <step_t *>realloc(change.steps, capacity * sizeof(step_t))
                if steps == NULL:
                    raise MemoryError(f"{capacity} steps of a change")
                change.steps = steps
                change.capacity = capacity
            change.steps[change.n].operation = operation
            change.steps[change.n].wire = wire
            change.n += 1
            self.generation += 1
            change.generation = self.generation
        finally:
            if change != NULL and change.n:
                exchange_ptr(&self.c.pending, change)
        eventfd_write(self.c.wake_fd, 1)
        self.collect()
        return self.generation

    cdef void collect(self) noexcept:
        """Frees what was adopted and cannot be in use any more."""
        cdef uint64_t adopted = load_acquire64(&self.c.adopted)
        cdef change_t **at = &self.changes
        cdef change_t *change
        while at[0] != NULL:
            change = at[0]
            if change.generation <= adopted:
                at[0] = change.older
                free(change.steps)
                release(ALLOCATED_CHANGE, change)
            else:
                at = &change.older

    def acknowledge(self):
        """Clears `notify_fd` and lets go of the vWires that have left; returns the generation adopted."""
        cdef uint64_t ignored
        if self.c.notify_fd >= 0:
            eventfd_read(self.c.notify_fd, &ignored)
        adopted = load_acquire64(&self.c.adopted)
        self.collect()
        kept = []
        for generation, wire in self.leaving:
            if generation <= adopted:
                # It may be in a plan again by now, another worker's or this one's.
                if wire.worker is self and wire not in self.wires:
                    wire.worker = None
                    wire.a.leave(wire)
                    wire.b.leave(wire)
            else:
                kept.append((generation, wire))
        self.leaving = kept
        return adopted

    @property
    def adopted(self):
        """The generation of the last change in force."""
        return load_acquire64(&self.c.adopted)

    @property
    def faults(self):
        """How many ports were found dead so far."""
        return load_acquire64(&self.c.faults)

    @property
    def busy_ns(self):
        """Time of the turns that moved frames."""
        return load_relaxed64(&self.c.busy_ns)

    @property
    def notify_fd(self):
        """Readable when something is to be acknowledged."""
        return self.c.notify_fd

    # --- The thread ---

    @property
    def running(self):
        """The thread has been started and has not ended."""
        return self.thread is not None and self.thread.is_alive()

    def start(self):
        """Starts the thread. Signals stay with the threads that are there."""
        if self.thread is not None or self.c.burst == NULL:
            raise DataplaneError(f"{self.name} was started before", errno=EBUSY)
        if self.cpu is not None and self.cpu not in os.sched_getaffinity(0):
            allowed = sorted(os.sched_getaffinity(0))
            raise DataplaneError(f"{self.name} cannot run on CPU {self.cpu}, only on {allowed}", errno=EINVAL)
        thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        # A fault in our own instructions (SIGBUS, SIGSEGV, ...) must stay deliverable: blocked, it kills.
        blocked = set(signal.Signals) - {
            signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS
        }
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.thread = thread
        atexit.register(self.stop)

    def _main(self):
        if self.cpu is not None:
            os.sched_setaffinity(0, {self.cpu})
        prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)
        with nogil:
            run(self.c)

    def stop(self, *, double timeout_s=5.0):
        """Ends the thread after its present turn. Does nothing the second time.

        Raises DataplaneError, naming the worker, if it has not ended within `timeout_s`.
        """
        thread, self.thread = self.thread, None
        if thread is None:
            return
        store_release32(&self.c.stop, 1)
        eventfd_write(self.c.wake_fd, 1)
        thread.join(timeout_s)
        if thread.is_alive():
            self.thread = thread
            raise DataplaneError(f"{self.name} did not stop within {timeout_s:g} s", errno=ETIMEDOUT)
        atexit.unregister(self.stop)
        # Nobody runs anything any more: whatever was asked for is in force.
        exchange_ptr(&self.c.pending, NULL)
        for wire in self.wires:
            self.leaving.append((self.generation, wire))
        self.wires.clear()
        store_release64(&self.c.adopted, self.generation)
        self.acknowledge()
        self.shut()

    def statistics(self):
        """Returns a snapshot of the worker's own counters."""
        return WorkerStatistics(
            vwires=len(self.wires),
            turns=load_relaxed64(&self.c.turns),
            busy_ns=load_relaxed64(&self.c.busy_ns),
            sleeps=load_relaxed64(&self.c.sleeps),
            wakes=load_relaxed64(&self.c.wakes),
            looks=load_relaxed64(&self.c.looks),
            rescues=load_relaxed64(&self.c.rescues),
            changes=load_relaxed64(&self.c.adopted),
        )
