"""The link over a board's own USB connector: a serial device (CDC-ACM) at full speed.

The device and the parts of its PHY are luna-usb's. Bits are sampled at 48 MHz, and what luna calls
the domain `usb`, of 12 MHz, is the same clock here with an enable in every fourth cycle. So nothing
crosses between the two, the tools see one clock, every path of which they time, and what is
received needs no FIFOs on its way in, whose delay would be a quarter of what a host waits for an
answer.

The host sees an ordinary serial port, whose rate means nothing. Its descriptors promise no modem's
commands, which keeps programs away that look for a modem and talk to whatever they find.
"""

from amaranth import (
    Cat,
    DomainRenamer,
    Elaboratable,
    EnableInserter,
    Module,
    Mux,
    ResetInserter,
    Signal,
)
from amaranth.lib import io, stream, wiring
from amaranth.lib.wiring import In, Out
from luna.gateware.interface.gateware_phy.receiver import (
    RxBitstuffRemover,
    RxClockDataRecovery,
    RxNRZIDecoder,
    RxPacketDetect,
    RxShifter,
)
from luna.gateware.interface.gateware_phy.transmitter import TxPipeline
from luna.gateware.usb.usb2.device import USBDevice
from luna.gateware.usb.usb2.endpoint import EndpointInterface
from luna.gateware.usb.usb2.endpoints.stream import USBStreamInEndpoint, USBStreamOutEndpoint
from luna.gateware.usb.usb2.request import USBRequestHandler
from usb_protocol.emitters import DeviceDescriptorCollection
from usb_protocol.emitters.descriptors import cdc
from usb_protocol.types import USBRequestType

from .board import bare_pins

__all__ = ["CLOCK_HZ", "PACKET", "PRODUCT", "VENDOR", "UsbLine", "UsbSerial", "descriptors"]

CLOCK_HZ = 48e6
"""Four samples a bit."""

VENDOR, PRODUCT = 0x1209, 0x0001
"""Test id of pid.codes: for one's own desk, not for devices that are handed on."""

PACKET = 64
"""The longest packet that full speed allows for bulk data."""

_SENT = PACKET - 1
"""Bytes of the longest packet to the host. A host takes what it has when a packet is shorter than
`PACKET`; full ones would need an empty one behind the last, or the end of an answer would stay in
the host until the next."""

_STATUS, _DATA = 1, 2
"""Endpoints' numbers."""

_SET_LINE_CODING, _SET_CONTROL_LINE_STATE = 0x20, 0x22


def descriptors(product: str) -> DeviceDescriptorCollection:
    """What the device tells of itself; `product` is the name that it shows."""
    collection = DeviceDescriptorCollection()
    with collection.DeviceDescriptor() as device:
        # A device whose interfaces are grouped by an association.
        device.bDeviceClass, device.bDeviceSubclass, device.bDeviceProtocol = 0xEF, 0x02, 0x01
        device.idVendor, device.idProduct = VENDOR, PRODUCT
        device.iManufacturer, device.iProduct = "systolith", product
        device.bNumConfigurations = 1
    with collection.ConfigurationDescriptor() as configuration:
        with configuration.InterfaceAssociationDescriptor() as association:
            association.bFirstInterface, association.bInterfaceCount = 0, 2
            association.bFunctionClass, association.bFunctionSubClass = 0x02, 0x02
            association.bFunctionProtocol = 0
        with configuration.InterfaceDescriptor() as control:
            control.bInterfaceNumber = 0
            control.bInterfaceClass, control.bInterfaceSubclass = 0x02, 0x02
            control.bInterfaceProtocol = 0  # no modem's commands
            control.add_subordinate_descriptor(cdc.HeaderDescriptorEmitter())
            management = cdc.ACMFunctionalDescriptorEmitter()
            management.bmCapabilities = 0  # what hosts ask all the same is accepted
            control.add_subordinate_descriptor(management)
            union = cdc.UnionFunctionalDescriptorEmitter()
            union.bControlInterface, union.bSubordinateInterface0 = 0, 1
            control.add_subordinate_descriptor(union)
            calls = cdc.CallManagementFunctionalDescriptorEmitter()
            calls.bDataInterface = 1
            control.add_subordinate_descriptor(calls)
            with control.EndpointDescriptor() as status:
                status.bEndpointAddress = 0x80 | _STATUS
                status.bmAttributes, status.wMaxPacketSize, status.bInterval = 0x03, 8, 255
        with configuration.InterfaceDescriptor() as data:
            data.bInterfaceNumber = 1
            data.bInterfaceClass, data.bInterfaceSubclass, data.bInterfaceProtocol = 0x0A, 0, 0
            for address in (0x80 | _DATA, _DATA):
                with data.EndpointDescriptor() as endpoint:
                    endpoint.bEndpointAddress = address
                    endpoint.bmAttributes, endpoint.wMaxPacketSize = 0x02, PACKET
    return collection


class _LineRequests(USBRequestHandler):
    """Accepts the rate and the control lines that hosts set, and forgets them."""

    def elaborate(self, platform):
        m = Module()
        interface = self.interface
        with m.If((interface.setup.type == USBRequestType.CLASS)
                  & ((interface.setup.request == _SET_LINE_CODING)
                     | (interface.setup.request == _SET_CONTROL_LINE_STATE))):
            m.d.comb += [
                interface.claim.eq(1),
                interface.handshakes_out.ack.eq(interface.rx_ready_for_response),
            ]
            with m.If(interface.status_requested):
                m.d.comb += self.send_zlp()
        return m


class _StatusEndpoint(Elaboratable):
    """Has nothing to tell, ever."""

    def __init__(self):
        self.interface = EndpointInterface()

    def elaborate(self, platform):
        m = Module()
        token = self.interface.tokenizer
        m.d.comb += self.interface.handshakes_out.nak.eq(
            (token.endpoint == _STATUS) & token.is_in & token.ready_for_response)
        return m


class _Endpoint(Elaboratable):
    """An endpoint of luna's that starts anew, with the packet sequence that the host expects, when
    the host configures the device: luna's own keep theirs over a reset of the bus.

    luna names the second endpoint of a class by its address in memory; subclasses of this one keep
    builds the same.
    """

    def __init__(self, inner):
        self._inner = inner
        self.interface, self.stream = inner.interface, inner.stream

    def elaborate(self, platform):
        m = Module()
        idle = Signal()
        m.d.comb += idle.eq(self.interface.active_config == 0)
        m.submodules.inner = ResetInserter({"usb": idle})(self._inner)
        return m


class _FromHost(_Endpoint):
    def __init__(self):
        super().__init__(USBStreamOutEndpoint(endpoint_number=_DATA, max_packet_size=PACKET))


class _ToHost(_Endpoint):
    def __init__(self):
        super().__init__(USBStreamInEndpoint(endpoint_number=_DATA, max_packet_size=_SENT))

    def elaborate(self, platform):
        m = super().elaborate(platform)
        # Whatever is there when the host asks is sent; more collects meanwhile.
        m.d.comb += self._inner.flush.eq(1)
        return m


class _Phy(Elaboratable):
    """luna's bit clock recovery, decoder and encoder, as the bus that its device takes.

    `enable` is the cycle in which the domain `usb` moves; `usb_io` is the same clock without it.
    """

    def __init__(self, wires, enable):
        self._wires, self._enable = wires, enable
        for name, width in (("tx_data", 8), ("tx_valid", 1), ("tx_ready", 1), ("rx_data", 8),
                            ("rx_valid", 1), ("rx_active", 1), ("line_state", 2),
                            ("session_end", 1), ("xcvr_select", 2), ("term_select", 1),
                            ("op_mode", 2), ("dp_pulldown", 1), ("dm_pulldown", 1)):
            setattr(self, name, Signal(width, name=name))

    def elaborate(self, platform):
        m = Module()
        wires = self._wires
        m.d.comb += [self.line_state.eq(Cat(wires.dn_i, wires.dp_i)),
                     wires.pullup.eq(self.term_select)]

        m.submodules.transmitter = transmitter = TxPipeline()
        # An encoder's bit moves four cycles after the last; it sees a new one three cycles after
        # the enable, and takes it in the next.
        since = Signal(2)
        m.d.usb_io += since.eq(Mux(self._enable, 0, since + 1))
        m.d.comb += [
            transmitter.i_bit_strobe.eq(since == 3),
            transmitter.i_data_payload.eq(self.tx_data), transmitter.i_oe.eq(self.tx_valid),
            self.tx_ready.eq(transmitter.o_data_strobe),
            wires.dp_o.eq(transmitter.o_usbp), wires.dn_o.eq(transmitter.o_usbn),
            wires.oe.eq(transmitter.o_oe),
        ]

        # What the device itself drives is not for it to hear.
        m.submodules.recovery = recovery = RxClockDataRecovery(
            wires.dp_i & ~transmitter.o_oe, wires.dn_i & ~transmitter.o_oe)
        m.submodules.decoder = decoder = RxNRZIDecoder()
        m.submodules.detector = detector = RxPacketDetect()
        m.submodules.remover = remover = ResetInserter({"usb_io": ~detector.o_pkt_active})(
            RxBitstuffRemover())
        m.submodules.shifter = shifter = RxShifter(width=8)
        was_active = Signal()
        m.d.usb_io += was_active.eq(detector.o_pkt_active)
        m.d.comb += [
            decoder.i_valid.eq(recovery.line_state_valid),
            decoder.i_dj.eq(recovery.line_state_dj), decoder.i_dk.eq(recovery.line_state_dk),
            decoder.i_se0.eq(recovery.line_state_se0),
            *(getattr(part, name).eq(getattr(decoder, f"o_{name[2:]}"))
              for part, names in ((detector, ("i_valid", "i_data", "i_se0")),
                                  (remover, ("i_valid", "i_data"))) for name in names),
            shifter.reset.eq(detector.o_pkt_end),
            shifter.i_data.eq(remover.o_data),
            shifter.i_valid.eq(~remover.o_stall & was_active),
        ]

        # What happens in one cycle is kept until the enable; bytes are 32 cycles apart.
        def kept(event):
            seen = Signal()
            with m.If(event):
                m.d.usb_io += seen.eq(1)
            with m.Elif(self._enable):
                m.d.usb_io += seen.eq(0)
            return seen

        begun, ended = kept(detector.o_pkt_start), kept(detector.o_pkt_end)
        with m.If(shifter.o_put):
            m.d.usb_io += self.rx_data.eq(shifter.o_data[::-1])
        with m.If(begun):
            m.d.usb += self.rx_active.eq(1)
        with m.Elif(ended):
            m.d.usb += self.rx_active.eq(0)
        m.d.comb += self.rx_valid.eq(kept(shifter.o_put) & self.rx_active)
        return m


class UsbSerial(wiring.Component):
    """The serial device behind a pair of wires, in a clock of `CLOCK_HZ`.

    Bytes are neither lost nor doubled while a host has the device configured, and dropped while
    none has. When the device takes no bytes the host is told to wait; bytes for a host that does
    not ask for any wait here.

    Parameters
    ----------
    product : str
        The name that the host shows.

    Members
    -------
    dp_i, dn_i : In(1)
        The wires, synchronized to the clock.
    dp_o, dn_o, oe : Out(1)
        What to drive on them, and whether to.
    pullup : Out(1)
        Whether to pull D+ up, by which the host notices the device.
    rx : Out(stream of bytes), tx : In(stream of bytes)
        As the device sees it: what came in, and what is to go out.
    """

    def __init__(self, product: str):
        self._product = product
        super().__init__({
            "dp_i": In(1), "dn_i": In(1), "dp_o": Out(1), "dn_o": Out(1), "oe": Out(1),
            "pullup": Out(1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        enable = Signal()
        phase = Signal(2)
        m.d.sync += [phase.eq(phase + 1), enable.eq(phase == 0)]
        from_host, to_host = _FromHost(), _ToHost()
        phy = _Phy(self, enable)
        device = USBDevice(bus=phy)
        control = device.add_standard_control_endpoint(descriptors(self._product))
        control.add_request_handler(_LineRequests())
        for endpoint in (_StatusEndpoint(), from_host, to_host):
            device.add_endpoint(endpoint)
        one_clock = DomainRenamer({"usb": "sync", "usb_io": "sync"})
        slowed = EnableInserter({"usb": enable})
        m.submodules.phy = one_clock(slowed(phy))
        m.submodules.device = one_clock(slowed(device))
        m.d.comb += device.connect.eq(1)

        # A byte moves to or from luna's side in cycles with the enable, and on ours in any.
        m.d.comb += from_host.stream.ready.eq(~self.rx.valid)
        with m.If(self.rx.ready):
            m.d.sync += self.rx.valid.eq(0)
        with m.If(enable & from_host.stream.valid & ~self.rx.valid):
            m.d.sync += [self.rx.payload.eq(from_host.stream.payload), self.rx.valid.eq(1)]

        m.d.comb += self.tx.ready.eq(~to_host.stream.valid)
        with m.If(enable & to_host.stream.ready):
            m.d.sync += to_host.stream.valid.eq(0)
        with m.If(self.tx.valid & self.tx.ready):
            m.d.sync += [to_host.stream.payload.eq(self.tx.payload), to_host.stream.valid.eq(1)]
        return m


class UsbLine(wiring.Component):
    """`UsbSerial` at the platform's resource `usb`, in a clock of `CLOCK_HZ`.

    The wires have registers in the pads, so that both change at the same time and without glitches.
    """

    def __init__(self, product: str):
        self._product = product
        super().__init__({"rx": Out(stream.Signature(8)), "tx": In(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        pins = bare_pins(platform, "usb")
        m.submodules.dp = dp = io.FFBuffer("io", pins.d_p)
        m.submodules.dn = dn = io.FFBuffer("io", pins.d_n)
        m.submodules.pullup = pullup = io.FFBuffer("o", pins.pullup)
        m.submodules.serial = serial = UsbSerial(self._product)
        # The second register of a synchronizer whose first is in the pad.
        m.d.sync += [serial.dp_i.eq(dp.i), serial.dn_i.eq(dn.i)]
        m.d.comb += [
            dp.o.eq(serial.dp_o), dp.oe.eq(serial.oe),
            dn.o.eq(serial.dn_o), dn.oe.eq(serial.oe),
            pullup.o.eq(serial.pullup),
        ]
        wiring.connect(m, serial.rx, wiring.flipped(self.rx))
        wiring.connect(m, wiring.flipped(self.tx), serial.tx)
        return m
