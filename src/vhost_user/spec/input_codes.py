"""Types and codes of events: those of Linux' evdev (input-event-codes.h). Keys are in ``input_keys``."""

from enum import IntEnum


class EventType(IntEnum):
    """What kind of event it is."""

    EV_SYN = 0
    EV_KEY = 1
    EV_REL = 2
    EV_ABS = 3
    EV_MSC = 4
    EV_SW = 5
    EV_LED = 17
    EV_SND = 18
    EV_REP = 20
    EV_FF = 21
    EV_PWR = 22
    EV_FF_STATUS = 23


class Synchronization(IntEnum):
    """Codes of EV_SYN: where a report ends, and that some are missing."""

    SYN_REPORT = 0
    SYN_CONFIG = 1
    SYN_MT_REPORT = 2
    SYN_DROPPED = 3


class Relative(IntEnum):
    """Codes of EV_REL: by how much something moved."""

    REL_X = 0
    REL_Y = 1
    REL_Z = 2
    REL_RX = 3
    REL_RY = 4
    REL_RZ = 5
    REL_HWHEEL = 6
    REL_DIAL = 7
    REL_WHEEL = 8
    REL_MISC = 9
    REL_WHEEL_HI_RES = 11
    REL_HWHEEL_HI_RES = 12


class Absolute(IntEnum):
    """Codes of EV_ABS: where something is."""

    ABS_X = 0
    ABS_Y = 1
    ABS_Z = 2
    ABS_RX = 3
    ABS_RY = 4
    ABS_RZ = 5
    ABS_THROTTLE = 6
    ABS_RUDDER = 7
    ABS_WHEEL = 8
    ABS_GAS = 9
    ABS_BRAKE = 10
    ABS_HAT0X = 16
    ABS_HAT0Y = 17
    ABS_HAT1X = 18
    ABS_HAT1Y = 19
    ABS_HAT2X = 20
    ABS_HAT2Y = 21
    ABS_HAT3X = 22
    ABS_HAT3Y = 23
    ABS_PRESSURE = 24
    ABS_DISTANCE = 25
    ABS_TILT_X = 26
    ABS_TILT_Y = 27
    ABS_TOOL_WIDTH = 28
    ABS_VOLUME = 32
    ABS_PROFILE = 33
    ABS_MISC = 40
    ABS_MT_SLOT = 47
    ABS_MT_TOUCH_MAJOR = 48
    ABS_MT_TOUCH_MINOR = 49
    ABS_MT_WIDTH_MAJOR = 50
    ABS_MT_WIDTH_MINOR = 51
    ABS_MT_ORIENTATION = 52
    ABS_MT_POSITION_X = 53
    ABS_MT_POSITION_Y = 54
    ABS_MT_TOOL_TYPE = 55
    ABS_MT_BLOB_ID = 56
    ABS_MT_TRACKING_ID = 57
    ABS_MT_PRESSURE = 58
    ABS_MT_DISTANCE = 59
    ABS_MT_TOOL_X = 60
    ABS_MT_TOOL_Y = 61


class Miscellaneous(IntEnum):
    """Codes of EV_MSC."""

    MSC_SERIAL = 0
    MSC_PULSELED = 1
    MSC_GESTURE = 2
    MSC_RAW = 3
    MSC_SCAN = 4
    MSC_TIMESTAMP = 5


class Switch(IntEnum):
    """Codes of EV_SW: switches that stay where they are put."""

    SW_LID = 0
    SW_TABLET_MODE = 1
    SW_HEADPHONE_INSERT = 2
    SW_RFKILL_ALL = 3
    SW_MICROPHONE_INSERT = 4
    SW_DOCK = 5
    SW_LINEOUT_INSERT = 6
    SW_JACK_PHYSICAL_INSERT = 7
    SW_VIDEOOUT_INSERT = 8
    SW_CAMERA_LENS_COVER = 9
    SW_KEYPAD_SLIDE = 10
    SW_FRONT_PROXIMITY = 11
    SW_ROTATE_LOCK = 12
    SW_LINEIN_INSERT = 13
    SW_MUTE_DEVICE = 14
    SW_PEN_INSERTED = 15
    SW_MACHINE_COVER = 16


class Led(IntEnum):
    """Codes of EV_LED: what the guest lights."""

    LED_NUML = 0
    LED_CAPSL = 1
    LED_SCROLLL = 2
    LED_COMPOSE = 3
    LED_KANA = 4
    LED_SLEEP = 5
    LED_SUSPEND = 6
    LED_MUTE = 7
    LED_MISC = 8
    LED_MAIL = 9
    LED_CHARGING = 10


class Sound(IntEnum):
    """Codes of EV_SND: what the guest lets be heard."""

    SND_CLICK = 0
    SND_BELL = 1
    SND_TONE = 2


class Repeat(IntEnum):
    """Codes of EV_REP: a device that has them wants keys repeated by the guest."""

    REP_DELAY = 0
    REP_PERIOD = 1


class InputProperty(IntEnum):
    """Properties of a device, for PROP_BITS."""

    INPUT_PROP_POINTER = 0
    INPUT_PROP_DIRECT = 1
    INPUT_PROP_BUTTONPAD = 2
    INPUT_PROP_SEMI_MT = 3
    INPUT_PROP_TOPBUTTONPAD = 4
    INPUT_PROP_POINTING_STICK = 5
    INPUT_PROP_ACCELEROMETER = 6
